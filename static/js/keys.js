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

/** What a key is called; a digit by its place, as Shift makes another sign of it. */
export function keyOf(event) {
  const digit = event.shiftKey && (event.ctrlKey || event.metaKey) && /^Digit(\d)$/.exec(event.code);
  return digit ? digit[1] : event.key.toLowerCase();
}

/** "mod+enter", "mod+shift+8", "e": how the server names a key press; null where it is none of ours. */
export function pressed(event) {
  if (event.isComposing || event.altKey) return null;
  const mod = event.ctrlKey || event.metaKey;
  return (mod ? "mod+" : "") + (mod && event.shiftKey ? "shift+" : "") + keyOf(event);
}

/**
 * Listen for keys. `chords` are held with Ctrl or Cmd ("enter", "z", "shift+8"); `bare(key, event)` gets every
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
    document.querySelector("dialog#keys")?.showModal();
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
  const parts = /^(mod\+)?(shift\+)?(.+)$/.exec(keys);
  const key = NAMES[parts[3]] ?? (parts[3].length === 1 ? parts[3].toUpperCase() : parts[3]);
  return [parts[1] && ctrl, parts[2] && "⇧", key].filter(Boolean).join(" ");
}

const hints = new Map(own.actions.map((action) => [written(action.first).replace(ctrl, "Ctrl"), action.keys]));
for (const hint of document.querySelectorAll("kbd")) {
  const keys = hints.get(hint.textContent);
  hint.textContent = keys ? written(keys) : hint.textContent.replace("Ctrl", ctrl);
}
