// What the reader gathered: a history, a basket, and what is known of items by now. Nothing of it is stored.

import { get } from "./api.js";

const heard = new Set();
export const state = { history: [], basket: [], user: null, pictures: false };
export const cards = new Map();

/** Calls a function after each change. */
export const onChange = (listener) => heard.add(listener);

export function changed(what) {
  for (const listener of heard) listener(what);
}

/** Puts an item at the end of a list, or takes it out of it. */
export function toggle(list, item) {
  const at = state[list].indexOf(item);
  if (at < 0) state[list].push(item);
  else state[list].splice(at, 1);
  changed(list);
}

export function clear(list) {
  state[list].length = 0;
  changed(list);
}

export const titleOf = (item) => cards.get(item)?.title ?? item;

export function remember(found) {
  for (const card of found) cards.set(card.item, card);
  return found;
}

/** Learns what is shown of these items, where that is not known yet. */
export async function learn(items, signal) {
  const unknown = items.filter((item) => !cards.has(item)).slice(0, 200);
  if (!unknown.length) return;
  const query = new URLSearchParams(unknown.map((item) => ["item", item]));
  remember((await get(`/v1/catalogue?${query}`, signal)).items);
}
