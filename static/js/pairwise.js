/** A pair of answers: which is better, or equal, or both bad. Chosen by a key or a press, then handed in. */

import { AssignmentPage, skipDialog } from "./assignment.js";
import { compare } from "./difference.js";
import { keysListen } from "./keys.js";

const form = document.getElementById("vote");
const choices = form.elements.choice;
const says = document.getElementById("says");
const button = document.getElementById("submit");
const cards = { left: "A", right: "B" };
const keys = { a: "left", b: "right", t: "tie", x: "both_bad" };

const page = new AssignmentPage({
  draftRead: () => ({ choice: choices.value }),
  draftWrite: (draft) => {
    for (const each of choices) each.checked = each.value === draft.choice;
    draw();
  },
});

function draw() {
  for (const [side, letter] of Object.entries(cards)) {
    document.querySelector(`[data-answer=${letter}]`).classList.toggle("chosen", choices.value === side);
  }
  says.textContent = page.words.votes[choices.value || "none"];
  button.disabled = !choices.value || document.body.classList.contains("busy");
}

function choose(choice) {
  if (page.closed || choices.value === choice) return;
  for (const each of choices) each.checked = each.value === choice;
  changed();
}

function changed() {
  draw();
  page.changed();
}

function submit() {
  if (choices.value) page.submit({ choice: choices.value });
  else says.textContent = page.words.vote_first;
}

page.onBusy = (busy) => {
  form.querySelector("fieldset").disabled = busy;
  draw();
};
form.addEventListener("change", changed);
form.addEventListener("submit", (event) => event.preventDefault());
button.addEventListener("click", submit);
document.getElementById("compare").addEventListener("click", () => compare("A", "B"));

keysListen({
  chords: { enter: submit },
  bare: (key) => {
    const name = key.toLowerCase();
    if (Object.hasOwn(keys, name)) choose(keys[name]);
    else if (name === "w") compare("A", "B");
    else return false;
    return true;
  },
});
page.start();
skipDialog(page);
