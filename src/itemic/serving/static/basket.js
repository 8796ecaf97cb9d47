// A basket, and the items that complete it.

import { chosen, latest, picture, post } from "./api.js";
import { explain, fill } from "./cards.js";
import { $, empty, h, ms, times } from "./dom.js";
import { cards, clear, learn, onChange, state, titleOf, toggle } from "./state.js";

const LISTED = 12;

export function makeBasket(root, open) {
  root.append(
    h("div", { class: "panel" },
      h("h2", {}, "Basket", h("button", { class: "link", id: "empty-basket", hidden: true, onclick: () => clear("basket") }, "empty it")),
      h("ul", { id: "in-basket", class: "list" })),
    h("div", { class: "panel", id: "goes" },
      h("h2", {}, "Goes with it", h("span", { id: "basket-speed", class: "quiet" })),
      h("p", { id: "basket-said", class: "quiet", role: "status" }),
      h("ol", { id: "completions", class: "list" })));
  onChange((what) => what === "basket" && show(open));
  $("model").addEventListener("change", complete);
  show(open);
}

function show(open) {
  const items = state.basket;
  $("basket-count").hidden = !items.length;
  $("basket-count").textContent = items.length;
  $("basket-count").title = times(items.length, "item");
  $("empty-basket").hidden = $("goes").hidden = !items.length;
  const focused = [...$("in-basket").querySelectorAll("button")].indexOf(document.activeElement);
  const rows = items.map((item) => h("li", { class: "listed", "data-item": item },
    h("span", { class: "pick" }, state.pictures && picture(item, cards.get(item)?.picture), h("span", { class: "text" }, h("span", { class: "title" }, titleOf(item)))),
    h("button", { class: "plain", "aria-label": `Take out: ${titleOf(item)}`, onclick: () => toggle("basket", item) }, "×")));
  $("in-basket").replaceChildren(...(rows.length ? rows : [h("li", {}, empty("The basket is empty", "Put items into it with “+ basket” in ",
    h("button", { class: "link", onclick: () => open("browse") }, "Browse"), "; what goes with them is then shown here."))]));
  if (focused >= 0) ($("in-basket").querySelectorAll("button")[Math.min(focused, Math.max(0, rows.length - 1))])?.focus();
  complete();
}

const complete = latest(async (signal) => {
  if (!state.basket.length) {
    $("completions").replaceChildren();
    $("basket-said").textContent = $("basket-speed").textContent = "";
    return;
  }
  const start = performance.now();
  const answer = await post("/v1/complete", { basket: state.basket, k: Math.max(1, Math.min(LISTED, state.items)), ...(chosen() && { model: chosen() }) }, signal);
  $("basket-speed").textContent = `${answer.model}, ${ms(performance.now() - start)}`;
  await learn(answer.items.map((one) => one.item), signal);
  answer.items = answer.items.filter((one) => !state.basket.includes(one.item));
  fill($("completions"), answer, (item) => toggle("basket", item), "Add to the basket", empty("Nothing goes with it", "The model names nothing for this basket."));
  $("basket-said").textContent = answer.reasons.join("; ");
  await explain($("completions"), answer, [...state.basket], signal);
}, "completions");
