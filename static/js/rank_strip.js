/**
 * The strip at the foot of the ranking page: a chip per answer, in places from best to worst. Chips are
 * dragged (mouse and touch) into a place, between two places, among those not judged, or back; arrow keys move the focused chip.
 */

import { fill } from "./assignment.js";
import { groups, insert, missing, placeOf, put, setAside, step, takeOut } from "./ranking_state.js";

const made = (tag, className, text = "") => {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
};

export class RankStrip {
  /** `change(state, letter)` is told what a drag or a key asks for; `choose(letter)` what was tapped. */
  constructor({ root, letters, words, change, choose }) {
    Object.assign(this, { root, letters, words, change, choose });
    this.tray = made("div", "rank-tray");
    this.tray.dataset.tray = "";
    this.aside = made("div", "rank-aside");
    this.aside.dataset.aside = words.not_judged;
    this.slots = letters.map((_, n) => this.#zone("rank-slot", "slot", n));
    this.gaps = letters.map((_, n) => this.#zone("rank-gap", "gap", n));
    this.gaps.push(this.#zone("rank-gap", "gap", letters.length));
    const line = made("div", "rank-line");
    this.slots.forEach((slot, n) => line.append(this.gaps[n], slot));
    line.append(this.gaps[letters.length]);
    root.append(line, this.tray, this.aside);
    this.chips = new Map(letters.map((letter) => [letter, this.#chip(letter)]));
    this.#draggable();
  }

  /** Draw a state; `armed` is the letter that a digit would place. */
  draw(state, armed) {
    this.current = state;
    const { slots } = state;
    const focused = document.activeElement?.dataset?.letter;
    const last = slots.findLastIndex((slot) => slot.length > 0);
    const list = groups(slots);
    slots.forEach((slot, n) => {
      const zone = this.slots[n];
      zone.classList.toggle("open", slot.length === 0);
      zone.dataset.place = n + 1;
      zone.replaceChildren(
        ...slot.flatMap((letter, i) => {
          const chip = this.chips.get(letter);
          return i ? [made("span", "rank-sign", "="), chip] : [chip];
        }),
      );
      const before = slots.slice(0, n).some((each) => each.length > 0);
      this.gaps[n].dataset.sign = before && slot.length > 0 ? ">" : "";
    });
    this.gaps[slots.length].dataset.sign = "";
    const left = missing(state, this.letters);
    this.aside.replaceChildren(...state.aside.map((letter) => this.chips.get(letter)));
    this.tray.replaceChildren(...left.map((letter) => this.chips.get(letter)));
    this.tray.hidden = left.length === 0;
    for (const [n, zone] of this.slots.entries()) {
      zone.hidden = n > last + left.length; // as many open places as there are answers left
    }
    for (const [letter, chip] of this.chips) {
      const place = list.findIndex((group) => group.includes(letter));
      chip.classList.toggle("placed", place >= 0);
      chip.classList.toggle("armed", letter === armed);
      const unplaced = state.aside.includes(letter) ? this.words.not_judged : this.words.not_placed;
      const where = place < 0 ? unplaced : this.words.places[place];
      chip.setAttribute("aria-label", fill(this.words.chip, { letter, place: where }));
    }
    if (focused) this.chips.get(focused)?.focus({ preventScroll: true });
  }

  #zone(className, name, n) {
    const zone = made("div", className);
    zone.dataset[name] = n;
    return zone;
  }

  #chip(letter) {
    const chip = made("button", "rank-chip", letter);
    chip.type = "button";
    chip.dataset.letter = letter;
    chip.addEventListener("click", () => this.choose(letter));
    chip.addEventListener("keydown", (event) => {
      const direction = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!direction) return;
      event.preventDefault();
      event.stopPropagation();
      this.change(step(this.current, letter, direction), letter);
    });
    return chip;
  }

  #draggable() {
    for (const zone of [...this.slots, ...this.gaps, this.tray, this.aside]) {
      window.Sortable.create(zone, {
        group: "rank",
        draggable: ".rank-chip",
        sort: false,
        forceFallback: true,
        fallbackTolerance: 4,
        fallbackOnBody: true,
        animation: 0,
        ghostClass: "rank-ghost",
        dragClass: "rank-drag",
        onStart: () => this.root.classList.add("dragging"),
        onEnd: (event) => {
          this.root.classList.remove("dragging");
          const letter = event.item.dataset.letter;
          queueMicrotask(() => this.change(this.#dropped(letter, event.to.dataset), letter));
        },
      });
    }
  }

  /** What dropping a letter on a zone makes of the ranking. */
  #dropped(letter, { slot, gap, aside }) {
    const state = this.current;
    if (slot !== undefined) return put(state, letter, Number(slot));
    if (aside !== undefined) return setAside(state, letter);
    if (gap === undefined) return takeOut(state, letter);
    const before = groups(state.slots.slice(0, Number(gap))).length;
    const here = placeOf(state.slots, letter);
    const alone = here >= 0 && state.slots[here].length === 1;
    if (alone && (here === Number(gap) || here + 1 === Number(gap))) return state;
    return insert(state, letter, before);
  }
}
