/** Keys of a page. Bare keys never reach a field that is typed in, and can be switched off. */

const OFF = "labelapp:keys-off";

const typing = (target) =>
  target instanceof HTMLElement &&
  (target.isContentEditable || target.matches("textarea, select, input:not([type=checkbox], [type=radio])"));

const bareOn = () => localStorage.getItem(OFF) === null;

/**
 * Listen for keys. `chords` are held with Ctrl or Cmd ("enter", "z"); `bare(key, event)` gets every
 * other key outside of fields and returns true when it used it.
 */
export function keysListen({ chords = {}, bare = () => false }) {
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.altKey) return;
    const inDialog = document.querySelector("dialog[open]") !== null;
    if (event.ctrlKey || event.metaKey) {
      const chord = chords[event.key.toLowerCase()];
      if (chord && !inDialog && !event.shiftKey && chord(event) !== false) event.preventDefault();
      return;
    }
    if (typing(event.target) || inDialog) return;
    if (event.key === "?") {
      document.getElementById("keys")?.showModal();
      event.preventDefault();
    } else if (bareOn() && bare(event.key, event)) {
      event.preventDefault();
    }
  });
  if (/Mac|iP(hone|ad)/.test(navigator.userAgent)) {
    for (const hint of document.querySelectorAll("kbd")) hint.textContent = hint.textContent.replace("Ctrl", "⌘");
  }
  const box = document.getElementById("keys-bare");
  if (!box) return;
  box.checked = bareOn();
  box.addEventListener("change", () => {
    if (box.checked) localStorage.removeItem(OFF);
    else localStorage.setItem(OFF, "yes");
  });
}
