/** A pause covers the page and stops the clock; after some time of work a break is hinted at. */

import { keysListen } from "./keys.js";

const BREAK = 5 * 60_000; // so long away from work is a break
const KEY = "labelapp:worked";

const dialog = document.getElementById("pause");
const hint = document.getElementById("break-hint");
const hintAfter = Number(hint.dataset.minutes) * 60_000; // 0: never

function worked() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY)) ?? { ms: 0, at: 0 };
    return Date.now() - kept.at > BREAK ? 0 : Number(kept.ms) || 0;
  } catch {
    return 0;
  }
}

function keep(ms) {
  try {
    localStorage.setItem(KEY, JSON.stringify({ ms, at: Date.now() }));
  } catch {
    /* no storage: no hint */
  }
}

function pause() {
  if (dialog.open) return;
  document.body.dataset.paused = String(Date.now());
  hint.hidden = true;
  dialog.showModal();
}

dialog.addEventListener("close", () => {
  if (Date.now() - Number(document.body.dataset.paused) > BREAK) keep(0);
  delete document.body.dataset.paused;
});
document.addEventListener("worked", (event) => {
  const ms = worked() + event.detail;
  keep(ms);
  if (hintAfter && ms >= hintAfter) hint.hidden = false;
});
document.addEventListener("click", (event) => {
  if (event.target.closest("[data-pause]")) pause();
  if (event.target.closest("[data-later]")) {
    keep(0);
    hint.hidden = true;
  }
});
keysListen({
  bare: (key) => {
    if (key.toLowerCase() !== "p") return false;
    pause();
    return true;
  },
});
