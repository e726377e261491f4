/**
 * A ranking as data. `slots` is a list of K places, best first, each a list of letters: several letters
 * in one place are tied, an empty place means nothing. Every function returns new slots.
 */

const copy = (slots) => slots.map((slot) => [...slot]);

export const empty = (k) => Array.from({ length: k }, () => []);

/** The place (from 0) of a letter, or -1. */
export const placeOf = (slots, letter) => slots.findIndex((slot) => slot.includes(letter));

/** The groups that are handed in: places without the empty ones. */
export const groups = (slots) => slots.filter((slot) => slot.length > 0);

export const missing = (slots, letters) => letters.filter((letter) => placeOf(slots, letter) < 0);

export const takeOut = (slots, letter) => slots.map((slot) => slot.filter((each) => each !== letter));

/** Put a letter in place `n` (from 0), beside whoever is there. Nobody else moves. */
export function put(slots, letter, n) {
  const next = takeOut(slots, letter);
  next[n] = [...next[n], letter].sort();
  return next;
}

/** `groups`, widened again to K places. */
function widened(list, k) {
  return [...copy(list), ...empty(k)].slice(0, Math.max(k, list.length));
}

/** Put a letter alone between two groups: before group `at` (counted without empty places). */
export function insert(slots, letter, at) {
  const before = groups(slots);
  const alone = before.findIndex((group) => group.length === 1 && group[0] === letter);
  const rest = groups(takeOut(slots, letter));
  const target = alone >= 0 && alone < at ? at - 1 : at;
  rest.splice(Math.min(target, rest.length), 0, [letter]);
  return widened(rest, slots.length);
}

/** One step better (-1) or worse (+1): out of a tie, or past the neighbour. Unplaced letters go last. */
export function step(slots, letter, direction) {
  const list = groups(slots);
  const here = list.findIndex((group) => group.includes(letter));
  if (here < 0) return insert(slots, letter, list.length);
  if (list[here].length > 1) return insert(slots, letter, direction < 0 ? here : here + 1);
  const there = here + direction;
  if (there < 0 || there >= list.length) return slots;
  const next = copy(list);
  [next[here], next[there]] = [next[there], next[here]];
  return widened(next, slots.length);
}

/** Tie a letter with the group above it; unplaced letters with the last group. */
export function tie(slots, letter) {
  const list = groups(slots);
  const here = list.findIndex((group) => group.includes(letter));
  if (list.length === 0) return insert(slots, letter, 0);
  const above = here < 0 ? list.length - 1 : here - 1;
  if (above < 0) return slots;
  const next = list.map((group) => group.filter((each) => each !== letter));
  next[above] = [...next[above], letter].sort();
  return widened(groups(next), slots.length);
}

/** Places out of a draft, whatever it holds: unknown and repeated letters are dropped. */
export function fromDraft(draftGroups, letters) {
  const k = letters.length;
  const seen = new Set();
  const known = (Array.isArray(draftGroups) ? draftGroups : []).slice(0, k).map((group) =>
    (Array.isArray(group) ? group : []).filter((letter) => {
      const good = letters.includes(letter) && !seen.has(letter);
      seen.add(letter);
      return good;
    }),
  );
  return widened(known, k);
}

export const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

/** "B is best, then A and D equally. C is not placed yet." */
export function sentence(slots, letters, words, fill, list) {
  const placed = groups(slots);
  const left = missing(slots, letters);
  if (placed.length === 0) return words.nothing_placed;
  const parts = placed.map((group, i) => {
    const many = group.length > 1;
    const text = i === 0 ? (many ? words.are_best : words.is_best) : many ? words.then_many : words.then_one;
    return fill(text, { list: list(group) });
  });
  const said = `${parts.join(", ")}.`;
  if (left.length === 0) return said;
  return `${said} ${fill(left.length > 1 ? words.many_missing : words.one_missing, { list: list(left) })}`;
}
