/** Writing a demonstration: an editor that grows, a count of words, a draft that is never lost. */

import { AssignmentPage, fill, skipDialog } from "./assignment.js";
import { keysListen } from "./keys.js";

const editor = document.getElementById("answer");
const counter = document.getElementById("word-count");
const button = document.getElementById("submit");
const growsByItself = CSS.supports("field-sizing", "content");

const page = new AssignmentPage({
  draftRead: () => ({ text: editor.value }),
  draftWrite: (draft) => {
    editor.value = draft.text ?? "";
    show();
  },
});

function show() {
  const n = editor.value.split(/\s+/).filter(Boolean).length;
  const rule = new Intl.PluralRules(document.documentElement.lang).select(n);
  counter.textContent = fill(page.words.words[rule === "one" ? 0 : 1], { n });
  button.disabled = n === 0 || document.body.classList.contains("busy");
  if (!growsByItself) {
    editor.style.height = "auto";
    editor.style.height = `${editor.scrollHeight + 2}px`;
  }
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
keysListen({
  chords: { enter: submit },
  bare: (key) => {
    if (key.toLowerCase() === "e") {
      editor.focus();
      return true;
    }
    if (key.toLowerCase() === "i") {
      document.getElementById("instructions").showModal();
      return true;
    }
    return false;
  },
});
page.start();
skipDialog(page);
