/**
 * Rating each answer alone, before the ranking: the overall quality and fields that are yes, no or blank.
 * One answer is shown at a time; a row of dots says which are done.
 */

import { fill } from "./assignment.js";
import { promptFold } from "./prompt.js";

const $ = (id) => document.getElementById(id);
const VALUES = { true: true, false: false };
const IN_TURN = new Map([
  ["", "true"],
  ["true", "false"],
  ["false", ""],
]);

export class RatingStep {
  /** `cards` are the answers by letter; `changed()` after every change; `done()` leads on to the ranking. */
  constructor({ cards, words, changed, done }) {
    Object.assign(this, { cards, words, changed, done });
    this.letters = [...cards.keys()];
    this.root = $("rating");
    this.flags = new Map([...this.root.querySelectorAll("[data-flag]")].map((flag) => [flag.dataset.flag, flag]));
    this.scale = [...this.root.querySelectorAll("[name=overall]")];
    this.meaning = $("meaning");
    this.said = new Map(this.letters.map((letter) => [letter, { overall: null, flags: {} }]));
    this.past = []; // [letter, what was said of it before]
    this.letter = this.letters[0];
    this.#listen();
    this.#mean(null);
  }

  /** What is kept in the draft. */
  read() {
    return { ...this.content(), rating_at: this.letter };
  }

  /** Take a draft, whatever it holds: what cannot be is left out. */
  write(draft) {
    for (const letter of this.letters) {
      const overall = draft.ratings?.[letter];
      const flags = Object.entries(draft.flags?.[letter] ?? {}).filter(
        ([name, value]) => this.flags.has(name) && typeof value === "boolean",
      );
      const good = this.scale.length > 0 && Number.isInteger(overall) && overall >= 1 && overall <= 7;
      this.said.set(letter, { overall: good ? overall : null, flags: Object.fromEntries(flags) });
    }
    this.past = [];
    this.letter = this.letters.includes(draft.rating_at) ? draft.rating_at : this.letters[0];
    this.draw();
  }

  /** What is handed in: {ratings, flags} by letter, of answers of which something was said. */
  content() {
    const ratings = {};
    const flags = {};
    for (const [letter, said] of this.said) {
      if (said.overall !== null) ratings[letter] = said.overall;
      if (Object.keys(said.flags).length > 0) flags[letter] = said.flags;
    }
    return { ratings, flags };
  }

  /** Letters that have no overall rating. */
  lacking() {
    return this.letters.filter((letter) => this.said.get(letter).overall === null);
  }

  /** Show one answer. The focus goes to its heading unless `quiet`. */
  show(letter, { quiet = false } = {}) {
    this.letter = letter;
    this.draw();
    this.#mean(null);
    if (quiet) return;
    promptFold();
    scrollTo({ top: 0 });
    $("rating-title").focus({ preventScroll: true });
  }

  say(text) {
    $("rating-says").textContent = text;
  }

  bareKey(key, event) {
    const digit = Number(key);
    if (key >= "0" && key <= "9") {
      if (this.scale.length > 0 && digit <= 7) this.#rate(digit || null);
      return true;
    }
    if (key === "Enter") {
      if (event.target.closest("button, a, summary")) return false;
      this.next();
      return true;
    }
    const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
    if (step && !event.target.matches("input")) {
      const there = this.letters[this.letters.indexOf(this.letter) + step];
      if (there) this.show(there);
      return true;
    }
    const flag = [...this.flags.values()].find((each) => each.dataset.key === key.toLowerCase());
    if (!flag) return false;
    const now = this.said.get(this.letter).flags[flag.dataset.flag];
    this.#flag(flag, IN_TURN.get(String(now ?? "")));
    return true;
  }

  /** The next answer, or the ranking after the last one. */
  next() {
    const there = this.letters[this.letters.indexOf(this.letter) + 1];
    if (there) this.show(there);
    else this.done();
  }

  draw() {
    const said = this.said.get(this.letter);
    const at = this.letters.indexOf(this.letter);
    for (const [letter, card] of this.cards) card.classList.toggle("current", letter === this.letter);
    this.root.querySelector("[data-current]").textContent = this.letter;
    for (const step of this.scale) step.checked = Number(step.value) === said.overall;
    for (const [name, flag] of this.flags) {
      const value = String(said.flags[name] ?? "");
      for (const choice of flag.querySelectorAll("input")) choice.checked = choice.value === value;
    }
    for (const dot of document.querySelectorAll(".dot[data-go]")) {
      const letter = dot.dataset.go;
      const done = this.#done(letter);
      dot.classList.toggle("done", done);
      dot.setAttribute("aria-label", fill(done ? this.words.rated : this.words.not_rated, { letter }));
      if (letter === this.letter) dot.setAttribute("aria-current", "step");
      else dot.removeAttribute("aria-current");
    }
    $("rate-back").disabled = at === 0;
    const last = at === this.letters.length - 1;
    $("rate-next").querySelector("[data-says=next]").hidden = last;
    $("rate-next").querySelector("[data-says=rank]").hidden = !last;
  }

  #done(letter) {
    const said = this.said.get(letter);
    return this.scale.length > 0 ? said.overall !== null : Object.keys(said.flags).length > 0;
  }

  /** Take the last rating or field back, and show the answer it was of. */
  undo() {
    const before = this.past.pop();
    if (!before) return;
    const [letter, said] = before;
    this.said.set(letter, said);
    if (letter === this.letter) this.draw();
    else this.show(letter);
    this.say(this.words.undone);
    this.changed();
  }

  #remember() {
    const { overall, flags } = this.said.get(this.letter);
    this.past.push([this.letter, { overall, flags: { ...flags } }]);
  }

  #rate(overall) {
    this.#remember();
    this.said.get(this.letter).overall = overall;
    this.say(overall === null ? "" : fill(this.words.overall_said, { n: overall }));
    this.draw();
    this.changed();
  }

  #flag(flag, value) {
    this.#remember();
    const flags = this.said.get(this.letter).flags;
    if (value === "") delete flags[flag.dataset.flag];
    else flags[flag.dataset.flag] = VALUES[value];
    const said = { true: this.words.yes, false: this.words.no, "": this.words.blank }[value];
    const name = flag.querySelector(".flag-name").lastChild.textContent.trim();
    this.say(fill(this.words.flag_said, { flag: name, value: said }));
    this.#mean(flag);
    this.draw();
    this.changed();
  }

  /** Show what a field means; what it is asked of stays in sight. */
  #mean(flag) {
    if (!this.meaning) return;
    const hidden = flag?.querySelector(".visually-hidden[id^=meaning-]");
    this.meaning.textContent = hidden ? hidden.textContent : this.meaning.dataset.rest;
    this.meaning.classList.toggle("quiet", !hidden);
  }

  #listen() {
    this.root.addEventListener("change", (event) => {
      if (event.target.name === "overall") this.#rate(Number(event.target.value));
      else this.#flag(event.target.closest("[data-flag]"), event.target.value);
    });
    for (const kind of ["pointerover", "focusin"]) {
      this.root.addEventListener(kind, (event) => {
        const flag = event.target.closest("[data-flag]");
        if (flag) this.#mean(flag);
      });
    }
    $("rating-bar").addEventListener("click", (event) => {
      const there = event.target.closest("[data-go]")?.dataset.go;
      if (there === "rank") this.done();
      else if (there) this.show(there);
    });
    $("rate-back").addEventListener("click", () => this.show(this.letters[this.letters.indexOf(this.letter) - 1]));
    $("rate-next").addEventListener("click", () => this.next());
  }
}

/** The first two answers whose order in `groups` (best first) contradicts their ratings, or null. */
export function disagreement(groups, ratings) {
  const rated = groups.flatMap((group, place) => group.map((letter) => ({ letter, place, rating: ratings[letter] })));
  for (const better of rated) {
    for (const worse of rated) {
      if (better.place < worse.place && better.rating < worse.rating) return { better, worse };
    }
  }
  return null;
}
