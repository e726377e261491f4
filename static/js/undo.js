/**
 * "Submitted. Undo (10 s)": counts down, goes away, and has a key that works while one types. Where the round
 * shows who wrote the answers of a pair, it says so in its place.
 */

import { keysListen } from "./keys.js";

const AGAIN = 500; // ms: the server's clock may be behind ours
const TRIES = 6;

const form = document.getElementById("undo-submit");
const left = form.querySelector("[data-left]");
const end = performance.now() + Number(form.dataset.seconds) * 1000;

function tick() {
  const seconds = Math.ceil((end - performance.now()) / 1000);
  if (form.dataset.sent) return;
  if (seconds <= 0) {
    if (form.contains(document.activeElement)) document.getElementById("content").focus();
    if (form.dataset.versions) reveal(TRIES);
    else form.remove();
    return;
  }
  left.textContent = seconds;
  setTimeout(tick, 250);
}

/** Too late to take the vote back: say which versions it was on. */
async function reveal(tries) {
  form.querySelector("[data-undo]")?.remove();
  const answer = await fetch(form.dataset.versions).catch(() => null);
  if (answer?.ok) {
    const versions = await answer.json();
    const said = form.dataset.revealed.replace(/\{(\w+)\}/g, (_, name) => versions[name] ?? "");
    form.querySelector("[role=status]").textContent = said;
    const close = form.querySelector("[data-later]");
    close.hidden = false;
    close.addEventListener("click", () => form.remove());
  } else if (tries > 1) setTimeout(() => reveal(tries - 1), AGAIN);
  else form.remove();
}

keysListen({
  chords: {
    u: (event) => {
      if (form.querySelector("[data-undo]") && form.isConnected && !event.repeat) form.requestSubmit();
    },
  },
});
tick();
