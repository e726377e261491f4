/** Sensitive content stays covered, for the eye and for a screen reader, until it is asked for. */

import { keysListen } from "./keys.js";

const veil = document.getElementById("veil");
const seen = `labelapp:unveiled:${veil.dataset.task}`;

function show() {
  for (const part of document.querySelectorAll("[data-veiled]")) {
    part.inert = false;
    part.removeAttribute("aria-hidden");
    delete part.dataset.veiled;
  }
  if (veil.contains(document.activeElement)) document.getElementById("content").focus();
  veil.hidden = true;
  try {
    sessionStorage.setItem(seen, "yes"); // not again after a reload
  } catch {
    /* no storage: asked again */
  }
}

veil.querySelector("[data-unveil]").addEventListener("click", show);
keysListen({
  bare: (key) => {
    if (key.toLowerCase() !== "v" || veil.hidden) return false;
    show();
    return true;
  },
});
if (sessionStorage.getItem(seen)) show();
