/** Ranking K answers: by letter and digit, by the buttons of each answer, or by dragging chips. */

import { AssignmentPage, fill, skipDialog } from "./assignment.js";
import { keysListen } from "./keys.js";
import { RankStrip } from "./rank_strip.js";
import * as rank from "./ranking_state.js";

const $ = (id) => document.getElementById(id);
const cards = new Map([...document.querySelectorAll("[data-answer]")].map((card) => [card.dataset.answer, card]));
const letters = [...cards.keys()];
const listFormat = new Intl.ListFormat(document.documentElement.lang, { type: "conjunction" });
const list = (items) => listFormat.format(items);

const calm = matchMedia("(prefers-reduced-motion: reduce)");

let slots = rank.empty(letters.length);
let armed = null;
const past = [];

const page = new AssignmentPage({
  draftRead: () => ({ groups: slots }),
  draftWrite: (draft) => {
    slots = rank.fromDraft(draft.groups, letters);
    past.length = 0;
    armed = rank.missing(slots, letters)[0] ?? null;
    draw();
  },
});
const strip = new RankStrip({ root: $("rank"), letters, words: page.words, change, choose: arm });

/** Take new slots as the ranking, unless nothing changed; the old ones can be had back by undo. */
function change(next, letter) {
  if (page.closed || rank.same(next, slots)) {
    draw();
    return;
  }
  past.push(slots);
  slots = next;
  armed = rank.missing(slots, letters)[0] ?? letter;
  draw();
  page.changed();
}

function undo() {
  if (past.length === 0 || page.closed) return;
  slots = past.pop();
  armed = rank.missing(slots, letters)[0] ?? null;
  draw();
  page.changed();
}

function arm(letter) {
  armed = letter;
  draw();
  cards.get(letter).scrollIntoView({ block: "nearest", behavior: calm.matches ? "auto" : "smooth" });
  $("armed").textContent = fill(page.words.armed, { letter });
}

function submit() {
  if ($("submit").disabled) {
    $("armed").textContent = page.words.place_all;
    return;
  }
  page.submit({ groups: rank.groups(slots) });
}

function placeNote(letter) {
  const placed = rank.groups(slots);
  const n = placed.findIndex((group) => group.includes(letter));
  if (n < 0) return page.words.not_placed;
  const others = placed[n].filter((each) => each !== letter);
  const place = page.words.places[n];
  return others.length ? fill(page.words.with, { place, others: list(others) }) : place;
}

function drawCard(letter, card) {
  const here = rank.placeOf(slots, letter);
  const placed = rank.groups(slots);
  const n = placed.findIndex((group) => group.includes(letter));
  const alone = n >= 0 && placed[n].length === 1;
  card.classList.toggle("placed", here >= 0);
  card.classList.toggle("armed", letter === armed);
  card.querySelector("[data-place-note]").textContent = placeNote(letter);
  for (const button of card.querySelectorAll("[data-put]")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.put) === here + 1));
  }
  const off = {
    better: n === 0 && alone,
    worse: n >= 0 && n === placed.length - 1 && alone,
    tie: n === 0 || placed.length === 0,
    out: n < 0,
  };
  for (const [name, disabled] of Object.entries(off)) {
    card.querySelector(`[data-move=${name}]`).setAttribute("aria-disabled", String(disabled));
  }
}

function draw() {
  for (const [letter, card] of cards) drawCard(letter, card);
  strip?.draw(slots, armed);
  const says = rank.sentence(slots, letters, page.words, fill, list);
  if ($("says").textContent !== says) $("says").textContent = says;
  $("submit").disabled = rank.missing(slots, letters).length > 0 || document.body.classList.contains("busy");
  $("undo").disabled = past.length === 0;
}

const moves = {
  better: (letter) => rank.step(slots, letter, -1),
  worse: (letter) => rank.step(slots, letter, 1),
  tie: (letter) => rank.tie(slots, letter),
  out: (letter) => rank.takeOut(slots, letter),
};

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-put], [data-move]");
  if (!button || button.getAttribute("aria-disabled") === "true") return;
  const letter = button.closest("[data-answer]").dataset.answer;
  const next = button.dataset.put ? rank.put(slots, letter, Number(button.dataset.put) - 1) : moves[button.dataset.move](letter);
  change(next, letter);
});
$("undo").addEventListener("click", undo);
$("submit").addEventListener("click", submit);
page.onBusy = draw;

function bareKey(key) {
  const letter = key.toUpperCase();
  if (letters.includes(letter)) {
    arm(letter);
    return true;
  }
  if (!armed) return false;
  const digit = Number(key);
  if (key >= "1" && key <= "9") {
    if (digit <= letters.length) change(rank.put(slots, armed, digit - 1), armed);
    return true;
  }
  if (key === "0") change(rank.takeOut(slots, armed), armed);
  else if (key === "=") change(rank.tie(slots, armed), armed);
  else if (key === "Escape") {
    armed = null;
    draw();
  } else return false;
  return true;
}

keysListen({ chords: { enter: submit, z: undo }, bare: bareKey });
page.start();
skipDialog(page);
