/** A field for a key takes the key that is pressed in it. Tab leaves it, Backspace gives the first key. */

import { keyOf } from "./keys.js";

const NONE = new Set(["Tab", "Shift", "Control", "Meta", "Alt", "AltGraph", "Escape", "Dead", "CapsLock"]);

document.addEventListener("keydown", (event) => {
  const field = event.target.closest?.("[data-key]");
  if (!field || NONE.has(event.key) || event.isComposing || event.altKey) return;
  const mod = event.ctrlKey || event.metaKey;
  if (!mod && event.key === "Enter") return; // sends the form
  event.preventDefault();
  const key = keyOf(event);
  if (key === "backspace" || key === "delete") field.value = field.dataset.key;
  else field.value = (mod ? "ctrl+" : "") + (mod && event.shiftKey ? "shift+" : "") + key;
});
