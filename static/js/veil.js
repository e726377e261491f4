/** Sensitive content stays covered, for the eye and for a screen reader, until it is asked for. */

import { remember, remembered } from "./kept.js";
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
  remember(seen, true, () => sessionStorage); // not again after a reload
}

veil.querySelector("[data-unveil]").addEventListener("click", show);
keysListen({
  bare: (key) => {
    if (key.toLowerCase() !== "v" || veil.hidden) return false;
    show();
    return true;
  },
});
if (remembered(seen, () => sessionStorage)) show();
