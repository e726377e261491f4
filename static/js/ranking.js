/** Ranking K answers: by letter and digit, by the buttons of each answer, or by dragging chips. */

import { AssignmentPage, fill, skipDialog } from "./assignment.js";
import { compare } from "./difference.js";
import { keysListen } from "./keys.js";
import { promptFold } from "./prompt.js";
import { RankStrip } from "./rank_strip.js";
import * as rank from "./ranking_state.js";
import { disagreement, RatingStep } from "./ratings.js";

const $ = (id) => document.getElementById(id);
const cards = new Map([...document.querySelectorAll("[data-answer]")].map((card) => [card.dataset.answer, card]));
const letters = [...cards.keys()];
const listFormat = new Intl.ListFormat(document.documentElement.lang, { type: "conjunction" });
const list = (items) => listFormat.format(items);

const calm = matchMedia("(prefers-reduced-motion: reduce)");

let state = rank.nothing(letters.length);
let armed = null;
let step = "rank"; // or "rate", where the round asks for ratings
const past = [];

const page = new AssignmentPage({
  draftRead: () => ({ groups: state.slots, ...rank.beside(state), step, ...ratings?.read() }),
  draftWrite: (draft) => {
    ratings?.write(draft);
    state = rank.fromDraft(draft, letters);
    past.length = 0;
    armed = rank.missing(state, letters)[0] ?? null;
    draw();
    go(ratings && draft.step !== "rank" ? "rate" : "rank", { quiet: true });
  },
});
const ratings = $("rating")
  ? new RatingStep({ cards, words: page.words, changed: () => page.changed(), done: () => go("rank") })
  : null;
const strip = new RankStrip({ root: $("rank"), letters, words: page.words, change, choose: arm });

/** Turn to the ratings or to the ranking. */
function go(there, { quiet = false } = {}) {
  const moved = step !== there;
  step = there;
  $("ranking").dataset.step = there;
  $("ranking-bar").hidden = there !== "rank";
  if (ratings) $("rating-bar").hidden = there !== "rate";
  draw();
  promptFold();
  if (quiet) return;
  if (moved) page.changed();
  scrollTo({ top: 0 });
  $(there === "rank" ? "answers" : "rating-title").focus({ preventScroll: true });
}

/** Take a new state as the ranking, unless nothing changed; the old one can be had back by undo. */
function change(next, letter) {
  if (page.closed || rank.same(next, state)) {
    draw();
    return;
  }
  past.push(state);
  state = next;
  armed = rank.missing(state, letters)[0] ?? letter;
  draw();
  page.changed();
}

function undo() {
  if (page.closed) return;
  if (step === "rate") {
    ratings.undo();
    return;
  }
  if (past.length === 0) return;
  state = past.pop();
  armed = rank.missing(state, letters)[0] ?? null;
  draw();
  page.changed();
}

function arm(letter) {
  armed = letter;
  draw();
  cards.get(letter).scrollIntoView({ block: "nearest", behavior: calm.matches ? "auto" : "smooth" });
  $("armed").textContent = fill(page.words.armed, { letter });
}

/** The answers that must be rated first; shows the first of them. True where there are any. */
function lackRatings() {
  if (!page.data.ratings_required || !ratings) return false;
  const lacking = ratings.lacking().filter((letter) => !state.aside.includes(letter));
  if (lacking.length === 0) return false;
  go("rate");
  ratings.show(lacking[0]);
  const words = lacking.length > 1 ? page.words.rate_first_many : page.words.rate_first;
  ratings.say(fill(words, { list: list(lacking) }));
  return true;
}

function submit() {
  if (step === "rate") {
    ratings.next();
  } else if ($("submit").disabled) {
    $("armed").textContent = page.words.place_all;
  } else if (!lackRatings()) {
    page.submit({ groups: rank.groups(state.slots), ...rank.beside(state), ...ratings?.content() });
  }
}

function placeNote(letter) {
  if (state.aside.includes(letter)) return page.words.not_judged;
  const placed = rank.groups(state.slots);
  const n = placed.findIndex((group) => group.includes(letter));
  if (n < 0) return page.words.not_placed;
  const others = placed[n].filter((each) => each !== letter);
  const place = page.words.places[n];
  return others.length ? fill(page.words.with, { place, others: list(others) }) : place;
}

function drawCard(letter, card) {
  const here = rank.placeOf(state.slots, letter);
  const placed = rank.groups(state.slots);
  const n = placed.findIndex((group) => group.includes(letter));
  const alone = n >= 0 && placed[n].length === 1;
  const aside = state.aside.includes(letter);
  card.classList.toggle("placed", here >= 0);
  card.classList.toggle("aside", aside);
  card.classList.toggle("armed", letter === armed);
  card.querySelector("[data-place-note]").textContent = placeNote(letter);
  for (const button of card.querySelectorAll("[data-put]")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.put) === here + 1));
  }
  const off = {
    better: n === 0 && alone,
    worse: n >= 0 && n === placed.length - 1 && alone,
    tie: n === 0 || placed.length === 0,
    aside,
    out: n < 0 && !aside,
  };
  for (const [name, disabled] of Object.entries(off)) {
    card.querySelector(`[data-move=${name}]`).setAttribute("aria-disabled", String(disabled));
  }
}

function drawExtras() {
  const placed = rank.groups(state.slots).length > 0;
  const missing = rank.missing(state, letters).length;
  $("rest").disabled = !placed || missing === 0;
  $("all-bad").setAttribute("aria-pressed", String(state.allBad));
  for (const choice of document.querySelectorAll("[name=strength]")) {
    choice.checked = choice.value === String(state.strength ?? "");
  }
  $("submit").disabled = !placed || missing > 0 || document.body.classList.contains("busy");
  $("undo").disabled = past.length === 0;
  const found = ratings && disagreement(rank.groups(state.slots), ratings.content().ratings);
  $("disagrees").hidden = !found;
  $("disagrees").textContent = found ? disagrees(found) : "";
}

const disagrees = ({ better, worse }) =>
  fill(page.words.disagrees, {
    higher: worse.letter,
    more: worse.rating,
    lower: better.letter,
    less: better.rating,
  });

function draw() {
  for (const [letter, card] of cards) drawCard(letter, card);
  strip?.draw(state, armed);
  const says = rank.sentence(state, letters, page.words, fill, list);
  if ($("says").textContent !== says) $("says").textContent = says;
  drawExtras();
}

const moves = {
  better: (letter) => rank.step(state, letter, -1),
  worse: (letter) => rank.step(state, letter, 1),
  tie: (letter) => rank.tie(state, letter),
  aside: (letter) => rank.setAside(state, letter),
  out: (letter) => rank.takeOut(state, letter),
};
const rest = () => {
  if (!$("rest").disabled) change(rank.restAside(state, letters), armed);
};
const allBad = () => change(rank.markAllBad(state, letters), armed);

/** Compare the chosen answer with its neighbour in the ranking, else with the next on the page. */
function compareWords() {
  const one = armed ?? letters[0];
  const order = rank.groups(state.slots).flat();
  const others = order.includes(one) && order.length > 1 ? order : letters;
  const at = others.indexOf(one);
  compare(one, others[at + 1] ?? others[at - 1]);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-put], [data-move]");
  if (!button || button.getAttribute("aria-disabled") === "true") return;
  const letter = button.closest("[data-answer]").dataset.answer;
  const next = button.dataset.put
    ? rank.put(state, letter, Number(button.dataset.put) - 1)
    : moves[button.dataset.move](letter);
  change(next, letter);
});
$("strength")?.addEventListener("change", (event) => {
  change({ ...state, strength: Number(event.target.value) || null }, armed);
});
$("rest").addEventListener("click", rest);
$("all-bad").addEventListener("click", allBad);
$("compare").addEventListener("click", compareWords);
$("undo").addEventListener("click", undo);
$("submit").addEventListener("click", submit);
$("to-ratings")?.addEventListener("click", () => go("rate"));
page.onBusy = draw;

function bareKey(key, event) {
  if (step === "rate") return ratings.bareKey(key, event);
  const letter = key.toUpperCase();
  if (letters.includes(letter)) {
    arm(letter);
    return true;
  }
  const general = { R: rest, W: compareWords, X: allBad }[letter];
  if (general) {
    general();
    return true;
  }
  if (!armed) return false;
  const digit = Number(key);
  if (key >= "1" && key <= "9") {
    if (digit <= letters.length) change(rank.put(state, armed, digit - 1), armed);
    return true;
  }
  if (key === "0") change(rank.takeOut(state, armed), armed);
  else if (key === "=") change(rank.tie(state, armed), armed);
  else if (letter === "N") change(rank.setAside(state, armed), armed);
  else if (key === "Escape") {
    armed = null;
    draw();
  } else return false;
  return true;
}

keysListen({ chords: { enter: submit, z: undo }, bare: bareKey });
page.start();
skipDialog(page);
