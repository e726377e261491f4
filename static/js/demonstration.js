/** Writing a demonstration: an editor that grows, a preview, its length, a draft that is never lost. */

import { AssignmentPage, fill, skipDialog } from "./assignment.js";
import { Instructions } from "./beside.js";
import { listsGoOn, markdownChords } from "./editor.js";
import { keysListen } from "./keys.js";
import { Preview } from "./preview.js";

const editor = document.getElementById("answer");
const words = document.getElementById("word-count");
const tokens = document.getElementById("token-count");
const tooLong = document.getElementById("too-long");
const button = document.getElementById("submit");
const growsByItself = CSS.supports("field-sizing", "content");

const page = new AssignmentPage({
  draftRead: () => ({ text: editor.value }),
  draftWrite: (draft) => {
    editor.value = draft.text ?? "";
    show();
  },
});
const limit = page.data.token_limit;
const instructions = new Instructions();
const preview = new Preview({ editor, page, onTokens: tokensShow });

function show() {
  const n = editor.value.split(/\s+/).filter(Boolean).length;
  const rule = new Intl.PluralRules(document.documentElement.lang).select(n);
  words.textContent = fill(page.words.words[rule === "one" ? 0 : 1], { n });
  button.disabled = n === 0 || document.body.classList.contains("busy");
  if (!growsByItself) {
    editor.style.height = "auto";
    editor.style.height = `${editor.scrollHeight + 2}px`;
  }
  note();
  preview.refresh();
}

/** What is said of the length: above all that a paste was cut. */
function note() {
  const most = new Intl.NumberFormat(document.documentElement.lang).format(editor.maxLength);
  const full = editor.value.length >= editor.maxLength;
  const over = tokens.classList.contains("over") ? page.words.too_long : "";
  const said = full ? fill(page.words.full, { n: most }) : over;
  if (tooLong.textContent !== said) tooLong.textContent = said;
}

function tokensShow(n) {
  tokens.textContent = n === null ? "" : fill(page.words.tokens, { n, limit });
  tokens.classList.toggle("over", n !== null && n > limit);
  note();
}

function submit() {
  if (editor.value.trim()) page.submit({ text: editor.value });
  else editor.focus();
}

page.onBusy = (busy) => {
  editor.readOnly = busy;
  show();
};
editor.addEventListener("input", () => {
  show();
  page.changed();
});
button.addEventListener("click", submit);
listsGoOn(editor);
keysListen({
  chords: { ...markdownChords(editor), enter: submit, ".": () => preview.toggle() },
  bare: (key) => {
    if (key.toLowerCase() === "e") {
      if (preview.shown && !preview.wide.matches) preview.toggle();
      editor.focus();
      return true;
    }
    if (key.toLowerCase() === "i") {
      instructions.show();
      return true;
    }
    return false;
  },
});
page.start();
skipDialog(page);
