/** "Submitted. Undo (10 s)": counts down, goes away, and has a key that works while one types. */

import { keysListen } from "./keys.js";

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

keysListen({
  chords: {
    u: (event) => {
      if (form.isConnected && !event.repeat) form.requestSubmit();
    },
  },
});
tick();
