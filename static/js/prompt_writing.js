/** Writing a prompt: plain, for a stated use case, or few-shot with pairs that come and go by keyboard. */

import { send } from "./api.js";
import { AssignmentPage, fill, skipDialog } from "./assignment.js";
import { keysListen } from "./keys.js";

const MOST_PAIRS = 20;
const FIRST_PAIRS = 2;
const COUNT_AFTER = 350; // ms without typing

const form = document.getElementById("prompt-form");
const pairs = document.getElementById("pairs"); // only where a few-shot prompt is asked for
const button = document.getElementById("submit");
const missing = document.getElementById("missing");
const tokens = document.getElementById("token-count");
const back = document.getElementById("pair-back");
const removed = []; // {at, content} of pairs that had something in them
const counting = { timer: null, turn: 0 };
const named = () => [...form.querySelectorAll("[name]")];

const page = new AssignmentPage({
  draftRead: read,
  draftWrite: (draft) => {
    for (const field of named()) field.value = draft[field.name] ?? "";
    if (pairs) {
      pairs.replaceChildren();
      const kept = Array.isArray(draft.pairs) ? draft.pairs : [];
      for (let n = 0; n < Math.max(kept.length, kept.length ? 1 : FIRST_PAIRS); n += 1) pairAdd(kept[n]);
    }
    show();
  },
});

function read() {
  const content = Object.fromEntries(named().map((field) => [field.name, field.value]));
  if (!pairs) return content;
  content.pairs = [...pairs.children].map(pairRead);
  return content;
}

function pairRead(pair) {
  const of = (name) => pair.querySelector(`[data-pair=${name}]`).value;
  return { query: of("query"), response: of("response") };
}

function pairAdd(content = {}, before = null) {
  const pair = document.getElementById("pair").content.firstElementChild.cloneNode(true);
  for (const area of pair.querySelectorAll("[data-pair]")) area.value = content[area.dataset.pair] ?? "";
  pair.querySelector("[data-remove]").addEventListener("click", () => pairRemove(pair));
  pairs.insertBefore(pair, before);
  pairsNumber();
  return pair;
}

function pairsNumber() {
  for (const [index, pair] of [...pairs.children].entries()) {
    pair.querySelector("[data-title]").textContent = fill(page.words.example, { n: index + 1 });
    pair.querySelector("[data-remove-title]").textContent = fill(page.words.example_remove, { n: index + 1 });
    pair.querySelector("[data-remove]").hidden = pairs.children.length === 1;
  }
  const full = pairs.children.length >= MOST_PAIRS;
  document.getElementById("pair-add").disabled = full;
  back.hidden = full || removed.length === 0;
}

/** Add an empty pair and go there. */
function pairNext() {
  if (!pairs || page.closed || pairs.children.length >= MOST_PAIRS) return false;
  pairAdd().querySelector("[data-pair=query]").focus();
  pairsSay();
  changed();
  return true;
}

function pairRemove(pair) {
  if (page.closed) return;
  const near = pair.nextElementSibling ?? pair.previousElementSibling;
  const content = pairRead(pair);
  if (content.query.trim() || content.response.trim()) {
    removed.push({ at: [...pairs.children].indexOf(pair), content });
  }
  pair.remove();
  pairsNumber();
  near.querySelector("[data-pair=query]").focus();
  pairsSay();
  changed();
}

/** Put the pair that was removed last where it was. */
function pairBack() {
  if (page.closed || removed.length === 0) return;
  const { at, content } = removed.pop();
  pairAdd(content, pairs.children[at] ?? null)
    .querySelector("[data-pair=query]")
    .focus();
  pairsSay();
  changed();
}

function pairsSay() {
  document.getElementById("pairs-said").textContent = fill(page.words.examples, { n: pairs.children.length });
}

/** What is still empty, in the order of the page; the first is said and gone to. */
function empty() {
  const areas = [...form.querySelectorAll("select, textarea")];
  return areas.filter((area) => !area.value.trim());
}

function show() {
  const left = empty();
  button.disabled = left.length > 0 || document.body.classList.contains("busy");
  missing.textContent = left.length ? page.words.fill_all : "";
  clearTimeout(counting.timer);
  counting.timer = setTimeout(tokensCount, COUNT_AFTER);
}

/** How long the prompt is for the model, as the server puts its parts together. */
async function tokensCount() {
  counting.turn += 1;
  const turn = counting.turn;
  const written = [...form.querySelectorAll("textarea")].some((area) => area.value.trim());
  let n = null;
  if (written) {
    const options = { csrfCookie: page.data.csrf_cookie };
    const answer = await send("POST", page.data.urls.preview, { prompt: read() }, options).catch(() => null);
    n = answer?.tokens ?? null;
  }
  if (turn !== counting.turn) return;
  const rule = new Intl.PluralRules(document.documentElement.lang).select(n ?? 0);
  tokens.textContent = n === null ? "" : fill(page.words.tokens_only[rule === "one" ? 0 : 1], { n });
}

function changed() {
  show();
  page.changed();
}

function submit() {
  const left = empty();
  if (left.length) left[0].focus();
  else page.submit({ prompt: read() });
}

page.onBusy = (busy) => {
  for (const field of form.querySelectorAll("textarea")) field.readOnly = busy;
  for (const field of form.querySelectorAll("select, button")) field.disabled = busy;
  if (pairs && !busy) pairsNumber();
  show();
};
addEventListener("online", show);
form.addEventListener("input", changed);
form.addEventListener("submit", (event) => event.preventDefault());
document.getElementById("pair-add")?.addEventListener("click", pairNext);
back?.addEventListener("click", pairBack);
button.addEventListener("click", submit);
keysListen({
  chords: { enter: submit, ".": pairNext },
  bare: (key) => {
    if (key.toLowerCase() === "e") {
      form.querySelector("textarea").focus();
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
