/**
 * Keys of a page, as their labeler has them. Scripts name the keys that actions have from the start;
 * what the account page changed is translated here, and shown in every hint. Bare keys never reach a
 * field that is typed in, and can be switched off.
 */

const typing = (target) =>
  target instanceof HTMLElement &&
  (target.isContentEditable || target.matches("textarea, select, input:not([type=checkbox], [type=radio])"));

const source = document.getElementById("page-keys");
const own = source ? JSON.parse(source.textContent) : { bare: true, actions: [] };
const moved = own.actions.filter((action) => action.keys !== action.first);
const firstOf = new Map(moved.map((action) => [action.keys, action.first]));
const left = new Set(moved.map((action) => action.first));
const listeners = [];

/** "mod+enter", "e": how the server names a key press; null where it is none of ours. */
export function pressed(event) {
  if (event.isComposing || event.altKey) return null;
  const mod = event.ctrlKey || event.metaKey;
  if (mod && event.shiftKey) return null;
  return (mod ? "mod+" : "") + event.key.toLowerCase();
}

/**
 * Listen for keys. `chords` are held with Ctrl or Cmd ("enter", "z"); `bare(key, event)` gets every
 * other key outside of fields and returns true when it used it.
 */
export function keysListen({ chords = {}, bare = () => false }) {
  listeners.push({ chords, bare });
}

document.addEventListener("keydown", (event) => {
  const name = pressed(event);
  if (name === null) return;
  if (left.has(name) && !firstOf.has(name)) return;
  const now = firstOf.get(name) ?? name;
  const inDialog = document.querySelector("dialog[open]") !== null;
  const bareNow = !name.startsWith("mod+");
  if (bareNow && (typing(event.target) || inDialog)) return;
  if (name === "?") {
    document.getElementById("keys")?.showModal();
    event.preventDefault();
    return;
  }
  if (inDialog || (bareNow && !own.bare)) return;
  const key = now.startsWith("mod+") ? now.slice(4) : firstOf.has(name) ? now : event.key;
  for (const { chords, bare } of listeners) {
    const chord = now.startsWith("mod+") ? chords[key] : null;
    if (chord ? chord(event) !== false : !now.startsWith("mod+") && bare(key, event)) {
      event.preventDefault();
      return;
    }
  }
});

const NAMES = { enter: "⏎", arrowleft: "←", arrowright: "→", arrowup: "↑", arrowdown: "↓", " ": "␣" };
const mac = /Mac|iP(hone|ad)/.test(navigator.userAgent);
const ctrl = mac ? "⌘" : (own.ctrl ?? "Ctrl");

/** "mod+enter" as it stands on a key: "Ctrl ⏎". */
export function written(keys) {
  const mod = keys.startsWith("mod+");
  const key = mod ? keys.slice(4) : keys;
  const name = NAMES[key] ?? (key.length === 1 ? key.toUpperCase() : key);
  return mod ? `${ctrl} ${name}` : name;
}

const hints = new Map(own.actions.map((action) => [written(action.first).replace(ctrl, "Ctrl"), action.keys]));
for (const hint of document.querySelectorAll("kbd")) {
  const keys = hints.get(hint.textContent);
  hint.textContent = keys ? written(keys) : hint.textContent.replace("Ctrl", ctrl);
}
