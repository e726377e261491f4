/** Live prompting: send the prompt, show each answer as it is written, lead to the ranking page. */

import { csrfToken } from "./api.js";
import { keysListen } from "./keys.js";
import { LiveDraft } from "./live_draft.js";

const page = JSON.parse(document.getElementById("page-data").textContent);
const words = JSON.parse(document.getElementById("wording").textContent);
const form = document.getElementById("live-form");
const prompt = document.getElementById("prompt");
const useCase = document.getElementById("use-case");
const ask = document.getElementById("ask");
const says = document.getElementById("says");
const answers = document.getElementById("answers");
const rank = document.getElementById("rank");
const again = document.getElementById("again");

const draft = new LiveDraft({
  page,
  words,
  read: () => ({ text: prompt.value, use_case: useCase.value }),
  write: (kept) => {
    prompt.value = kept.text;
    if (kept.use_case) useCase.value = kept.use_case;
  },
});

function busy(is) {
  ask.disabled = is;
  prompt.readOnly = is;
  useCase.disabled = is;
  answers.setAttribute("aria-busy", String(is));
}

function card(letter) {
  return answers.querySelector(`[data-letter="${letter}"]`);
}

function clear() {
  for (const each of answers.querySelectorAll(".answer")) {
    each.classList.remove("whole");
    each.querySelector(".answer-text").textContent = "";
  }
  answers.hidden = true;
  rank.hidden = true;
  again.hidden = true;
}

/** Act on one line; true once the prompt is no longer to be typed. */
function heard(line) {
  if (line.event === "text" || line.event === "answer") {
    if (answers.hidden) says.textContent = words.writing;
    answers.hidden = false;
    const shown = card(line.letter).querySelector(".answer-text");
    shown.textContent = line.event === "text" ? shown.textContent + line.text : line.text;
    card(line.letter).classList.toggle("whole", line.event === "answer");
    return false;
  }
  if (line.event === "kept") {
    says.textContent = words.asking;
    return false;
  }
  if (line.event === "refused") {
    says.textContent = line.message;
    draft.renew();
    draft.failed();
    busy(false);
    prompt.focus();
    return true;
  }
  draft.done();
  says.textContent = words[line.event] ?? "";
  if (line.event === "ready") {
    rank.href = line.url;
    rank.hidden = false;
    rank.focus();
  } else {
    answers.hidden = true;
    again.hidden = false;
    again.querySelector("a").focus();
  }
  return true;
}

async function listen(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let ended = false;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return ended;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) ended = heard(JSON.parse(line)) || ended;
  }
}

function failed(message) {
  draft.failed();
  says.textContent = message;
  answers.hidden = true;
  busy(false);
  prompt.focus();
}

async function send() {
  if (ask.disabled) return;
  if (!prompt.value.trim()) {
    says.textContent = words.empty;
    prompt.focus();
    return;
  }
  clear();
  busy(true);
  try {
    const response = await fetch(page.url, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRFToken": csrfToken(page.csrf_cookie) },
      body: JSON.stringify(draft.ask()),
    });
    if (!response.ok) {
      const error = (await response.json().catch(() => null))?.error ?? {};
      const signedOut = response.status === 401 || error.code === "not_authenticated";
      const said = response.status === 429 ? words.slow : error.message || words.cut;
      failed(signedOut ? words.signed_out : said);
      return;
    }
    if (!(await listen(response.body))) failed(words.cut);
  } catch {
    failed(words.cut);
  }
}

prompt.addEventListener("input", () => draft.typed());
useCase.addEventListener("change", () => draft.typed());
form.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
keysListen({ chords: { enter: send } });
