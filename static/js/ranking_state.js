/**
 * A ranking as data. `slots` is a list of K places, best first, each a list of letters: several letters
 * in one place are tied, an empty place means nothing. `aside` are the letters that are not judged.
 * Every function returns a new state.
 */

const copy = (slots) => slots.map((slot) => [...slot]);
const emptySlots = (k) => Array.from({ length: k }, () => []);
const without = (slots, letter) => slots.map((slot) => slot.filter((each) => each !== letter));

export const nothing = (k) => ({ slots: emptySlots(k), aside: [], allBad: false, strength: null });

/** What is drafted and handed in beside the places. */
export const beside = ({ aside, allBad, strength }) => ({ not_judged: aside, all_bad: allBad, strength });

/** The place (from 0) of a letter, or -1. */
export const placeOf = (slots, letter) => slots.findIndex((slot) => slot.includes(letter));

/** The groups that are handed in: places without the empty ones. */
export const groups = (slots) => slots.filter((slot) => slot.length > 0);

/** Letters of which nothing is said yet. */
export const missing = ({ slots, aside }, letters) =>
  letters.filter((letter) => placeOf(slots, letter) < 0 && !aside.includes(letter));

/** A state with these slots, in which `letter` is judged. */
const placed = (state, slots, letter) => ({ ...state, slots, aside: state.aside.filter((each) => each !== letter) });

/** Say nothing of a letter any more. */
export const takeOut = (state, letter) => placed(state, without(state.slots, letter), letter);

/** Leave a letter not judged. */
export const setAside = (state, letter) => {
  const next = takeOut(state, letter);
  return { ...next, aside: [...next.aside, letter].sort() };
};

/** Leave all that is not placed not judged. */
export const restAside = (state, letters) => missing(state, letters).reduce(setAside, state);

/** Say, or no longer say, that all are bad; where nothing is placed yet, they are equally so. */
export function markAllBad(state, letters) {
  const allBad = !state.allBad;
  const none = groups(state.slots).length === 0 && state.aside.length === 0;
  if (!allBad || !none) return { ...state, allBad };
  return { ...state, allBad, slots: widened([[...letters]], letters.length) };
}

/** Put a letter in place `n` (from 0), beside whoever is there. Nobody else moves. */
export function put(state, letter, n) {
  const next = without(state.slots, letter);
  next[n] = [...next[n], letter].sort();
  return placed(state, next, letter);
}

/** Groups, widened again to K places. */
function widened(list, k) {
  return [...copy(list), ...emptySlots(k)].slice(0, Math.max(k, list.length));
}

/** Put a letter alone between two groups: before group `at` (counted without empty places). */
export function insert(state, letter, at) {
  const before = groups(state.slots);
  const alone = before.findIndex((group) => group.length === 1 && group[0] === letter);
  const rest = groups(without(state.slots, letter));
  const target = alone >= 0 && alone < at ? at - 1 : at;
  rest.splice(Math.min(target, rest.length), 0, [letter]);
  return placed(state, widened(rest, state.slots.length), letter);
}

/** One step better (-1) or worse (+1): out of a tie, or past the neighbour. Unplaced letters go last. */
export function step(state, letter, direction) {
  const list = groups(state.slots);
  const here = list.findIndex((group) => group.includes(letter));
  if (here < 0) return insert(state, letter, list.length);
  if (list[here].length > 1) return insert(state, letter, direction < 0 ? here : here + 1);
  const there = here + direction;
  if (there < 0 || there >= list.length) return state;
  const next = copy(list);
  [next[here], next[there]] = [next[there], next[here]];
  return placed(state, widened(next, state.slots.length), letter);
}

/** Tie a letter with the group above it; unplaced letters with the last group. */
export function tie(state, letter) {
  const list = groups(state.slots);
  const here = list.findIndex((group) => group.includes(letter));
  if (list.length === 0) return insert(state, letter, 0);
  const above = here < 0 ? list.length - 1 : here - 1;
  if (above < 0) return state;
  const next = list.map((group) => group.filter((each) => each !== letter));
  next[above] = [...next[above], letter].sort();
  return placed(state, widened(groups(next), state.slots.length), letter);
}

/** A state out of a draft, whatever it holds: unknown and repeated letters are dropped. */
export function fromDraft(draft, letters) {
  const k = letters.length;
  const seen = new Set();
  const fresh = (letter) => {
    const good = letters.includes(letter) && !seen.has(letter);
    seen.add(letter);
    return good;
  };
  const lettersOf = (value) => (Array.isArray(value) ? value : []).filter(fresh);
  const known = (Array.isArray(draft.groups) ? draft.groups : []).slice(0, k).map(lettersOf);
  return {
    slots: widened(known, k),
    aside: lettersOf(draft.not_judged),
    allBad: draft.all_bad === true,
    strength: [1, 2, 3, 4].includes(draft.strength) ? draft.strength : null,
  };
}

export const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

/** "B is best, then A and D equally. C is not placed yet." */
export function sentence(state, letters, words, fill, list) {
  const said = order(groups(state.slots), words, fill, list);
  const parts = [said || words.nothing_placed];
  const some = (which, one, many) => {
    if (which.length > 0) parts.push(fill(which.length > 1 ? many : one, { list: list(which) }));
  };
  if (said) some(missing(state, letters), words.one_missing, words.many_missing);
  some(state.aside, words.one_aside, words.many_aside);
  if (state.allBad) parts.push(words.all_bad);
  return parts.join(" ");
}

function order(inOrder, words, fill, list) {
  if (inOrder.length === 0) return "";
  const parts = inOrder.map((group, i) => {
    const many = group.length > 1;
    const text = i === 0 ? (many ? words.are_best : words.is_best) : many ? words.then_many : words.then_one;
    return fill(text, { list: list(group) });
  });
  return `${parts.join(", ")}.`;
}
