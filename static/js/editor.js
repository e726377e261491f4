/** Markdown by keyboard in a plain textarea. Every change goes through the browser, so that its own undo stays whole. */

const ITEM = /^(\s*)([-*+]|\d+\.)(\s+)/;

function replace(editor, start, end, text) {
  editor.focus();
  editor.setSelectionRange(start, end);
  const done = document.execCommand(text ? "insertText" : "delete", false, text);
  if (done) return;
  editor.setRangeText(text, start, end, "end");
  editor.dispatchEvent(new Event("input", { bubbles: true }));
}

const selected = (editor) => editor.value.slice(editor.selectionStart, editor.selectionEnd);

/** Put `mark` around the selection, or take it away where it stands there already. */
function wrap(editor, mark) {
  const { selectionStart: start, selectionEnd: end, value } = editor;
  const n = mark.length;
  const around = value.slice(Math.max(start - n, 0), start) === mark && value.slice(end, end + n) === mark;
  // one star around a word is italic, but not where it is the inner half of two
  const bold = mark === "*" && value[start - 2] === "*" && value[start - 3] !== "*";
  const text = selected(editor);
  if (around && !bold) {
    replace(editor, start - n, end + n, text);
    editor.setSelectionRange(start - n, end - n);
  } else {
    replace(editor, start, end, mark + text + mark);
    editor.setSelectionRange(start + n, end + n);
  }
}

function code(editor) {
  const text = selected(editor);
  if (!text.includes("\n")) {
    wrap(editor, "`");
    return;
  }
  const { selectionStart: start, selectionEnd: end, value } = editor;
  const before = start === 0 || value[start - 1] === "\n" ? "" : "\n";
  const after = end === value.length || value[end] === "\n" ? "" : "\n";
  replace(editor, start, end, `${before}\`\`\`\n${text.replace(/\n$/, "")}\n\`\`\`${after}`);
}

/** Make the selected lines a list, or take the list marks away where all of them have one. */
function list(editor, numbered) {
  const { value } = editor;
  const start = value.lastIndexOf("\n", editor.selectionStart - 1) + 1;
  const next = value.indexOf("\n", Math.max(editor.selectionEnd - (selected(editor).endsWith("\n") ? 1 : 0), start));
  const end = next === -1 ? value.length : next;
  const lines = value.slice(start, end).split("\n");
  const kind = numbered ? /^(\s*)\d+\.\s+/ : /^(\s*)[-*+]\s+/;
  const some = lines.length > 1; // then blank lines stay blank
  const all = lines.every((line) => kind.test(line) || (some && !line.trim()));
  let n = 0;
  const changed = lines.map((line) => {
    if (some && !line.trim()) return line;
    const bare = line.replace(ITEM, "$1");
    if (all) return bare;
    n += 1;
    return bare.replace(/^\s*/, (space) => `${space}${numbered ? `${n}.` : "-"} `);
  });
  replace(editor, start, end, changed.join("\n"));
}

/** Enter in a list goes on with the list; in an empty item it ends it. True where it did either. */
function listGoesOn(editor) {
  const { selectionStart: at, selectionEnd: end, value } = editor;
  const start = value.lastIndexOf("\n", at - 1) + 1;
  const line = value.slice(start, at);
  const item = ITEM.exec(line);
  if (at !== end || !item) return false;
  if (item[0] === line) {
    replace(editor, start, at, "\n"); // a blank line, or what follows would belong to the last item
  } else {
    const number = Number.parseInt(item[2], 10);
    const mark = Number.isNaN(number) ? item[2] : `${number + 1}.`;
    replace(editor, at, at, `\n${item[1]}${mark}${item[3]}`);
  }
  return true;
}

/** Let Enter go on with lists in `editor` (a textarea). */
export function listsGoOn(editor) {
  editor.addEventListener("keydown", (event) => {
    if (event.isComposing || event.altKey || editor.readOnly) return;
    const alone = event.key === "Enter" && !event.ctrlKey && !event.metaKey && !event.shiftKey;
    if (alone && listGoesOn(editor)) event.preventDefault();
  });
}

/** What is held with Ctrl or Cmd while `editor` has the focus, for `keysListen`. */
export function markdownChords(editor) {
  const acts = {
    b: () => wrap(editor, "**"),
    i: () => wrap(editor, "*"),
    e: () => code(editor),
    "shift+7": () => list(editor, true),
    "shift+8": () => list(editor, false),
  };
  const here = (act) => () => {
    if (document.activeElement !== editor || editor.readOnly) return false;
    act();
    return true;
  };
  return Object.fromEntries(Object.entries(acts).map(([key, act]) => [key, here(act)]));
}
