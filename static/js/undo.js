/** "Submitted. Undo (10 s)": counts down, goes away, and has a key that works while one types. */

const form = document.getElementById("undo-submit");
const left = form.querySelector("[data-left]");
const end = performance.now() + Number(form.dataset.seconds) * 1000;

function tick() {
  const seconds = Math.ceil((end - performance.now()) / 1000);
  if (form.dataset.sent) return;
  if (seconds <= 0) {
    if (form.contains(document.activeElement)) document.getElementById("content").focus();
    form.remove();
    return;
  }
  left.textContent = seconds;
  setTimeout(tick, 250);
}

document.addEventListener("keydown", (event) => {
  const chord = (event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey;
  if (!chord || event.key.toLowerCase() !== "u" || !form.isConnected) return;
  event.preventDefault();
  if (!event.repeat) form.requestSubmit();
});
tick();
