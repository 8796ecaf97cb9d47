// Items as they are shown: in a grid, or in a list with the reason.

import { chosen, picture, post } from "./api.js";
import { h, percent } from "./dom.js";
import { cards, state, titleOf, toggle } from "./state.js";

const shown = (value) => (Array.isArray(value) ? value.join(", ") : String(value).split(" > ").at(-1));

/** The few attributes that tell an item apart: short ones, without their names. */
function meta(card) {
  const few = Object.entries(card?.attributes ?? {}).filter(([, value]) => (Array.isArray(value) || typeof value !== "object") && shown(value).length < 28);
  return few.slice(0, 4).map(([name, value]) => h("span", { title: name }, typeof value === "number" && !Number.isInteger(value) ? value.toFixed(2) : shown(value)));
}

function basketButton(item) {
  const inside = state.basket.includes(item);
  return h("button", { class: "plain to-basket", "data-item": item, "aria-pressed": String(inside), onclick: () => toggle("basket", item) },
    h("span", { class: "does" }, inside ? "✓ basket" : "+ basket"), h("span", { class: "hidden" }, ` ${titleOf(item)}`));
}

/** A card of the catalogue; choosing it puts it into the history. */
export function gridCard(card) {
  const inside = state.history.includes(card.item);
  return h("li", { class: "card", "data-item": card.item },
    h("button", { class: "pick", "aria-pressed": String(inside), onclick: () => toggle("history", card.item) },
      state.pictures && picture(card.item, card.picture),
      h("span", { class: "title" }, card.title ?? card.item),
      h("span", { class: "meta" }, meta(card))),
    h("span", { class: "actions" }, h("span", { class: "state", "aria-hidden": "true" }, inside ? "✓ in history" : ""), basketButton(card.item)));
}

/** A place of an answer; `why` is filled in when the reason is known, and `pick` says what choosing it does. */
export function listed(one, place, pick, label) {
  const card = cards.get(one.item);
  return h("li", { class: "listed", "data-item": one.item },
    h("button", { class: "pick", onclick: () => pick(one) },
      h("span", { class: "hidden" }, `${label}: `),
      h("span", { class: "place", "aria-hidden": "true" }, place),
      state.pictures && picture(one.item, card?.picture),
      h("span", { class: "text" },
        h("span", { class: "title" }, one.title ?? titleOf(one.item)),
        h("span", { class: "why" }))));
}

/** The reason: items of the history with their shares in the score, attributes that are the same, and who named it. */
function reason(told, source, model) {
  const because = told.because.slice(0, 2).map((one, at) =>
    h("span", { class: "because" }, h("span", { class: "hidden" }, at ? "and " : "because of "), h("span", { class: "one" }, one.title ?? one.item), h("span", {}, percent(one.share))));
  const shared = Object.keys(told.shared).slice(0, 3).join(", ");
  const named = (source !== model || !(because.length || shared)) && `named by ${source}`;
  return [...because, (shared || named) && h("span", {}, [shared && `same ${shared}`, named].filter(Boolean).join("; "))].filter(Boolean);
}

/** Puts the reason beside each place of an answer, as it comes; without a history that is who named the item. */
export async function explain(list, answer, history, signal) {
  const rows = [...list.children];
  await Promise.all(answer.items.map(async ({ item, source = answer.model }, at) => {
    const told = history.length ? await post("/v1/explain", { history, item, ...(chosen() && { model: chosen() }) }, signal) : { because: [], shared: {} };
    rows[at]?.querySelector(".why")?.replaceChildren(...reason(told, source, answer.model));
  }));
}

/** Fills a list with an answer; the focus stays on its place, and what was not there before is marked. */
export function fill(list, answer, pick, label, none) {
  const at = [...list.querySelectorAll(".pick")].indexOf(document.activeElement);
  const before = new Set([...list.children].map((one) => one.dataset.item));
  const rows = answer.items.map((one, place) => listed(one, place + 1, (it) => pick(it.item), label));
  if (before.size) for (const row of rows) row.classList.toggle("new", !before.has(row.dataset.item));
  list.replaceChildren(...(rows.length ? rows : [h("li", {}, none)]));
  if (at >= 0) list.querySelectorAll(".pick")[Math.min(at, rows.length - 1)]?.focus();
}
