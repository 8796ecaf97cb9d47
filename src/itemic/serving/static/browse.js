// The catalogue on the left; on the right the history that is built of it, and what the model makes of that.

import { chosen, get, latest, post, tell } from "./api.js";
import { explain, fill, gridCard } from "./cards.js";
import { $, count, empty, h, ms, times, toast } from "./dom.js";
import { changed, clear, learn, onChange, remember, state, titleOf, toggle } from "./state.js";

const PAGE = 24, LISTED = 12, LAST = 40;
const filters = new Map(); // column -> SQL condition
let offset = 0, columns = [], sending = false;
const visitor = `page-${Math.random().toString(36).slice(2, 10)}`; // who clicks, where clicks are sent

const word = (text) => `"${text.replaceAll('"', '""')}"`;
const literal = (value) => (typeof value === "string" ? `'${value.replaceAll("'", "''")}'` : String(value));
const where = () => [...filters.values()].join(" AND ") || null;

export function makeBrowse(root) {
  root.append(
    h("div", { class: "top" },
      h("form", { class: "search", role: "search", onsubmit: (event) => { event.preventDefault(); look(); } },
        h("input", { id: "search", type: "search", placeholder: "Search the catalogue", "aria-label": "Search the catalogue", maxlength: 1000, oninput: soon }),
        h("button", { class: "plain", type: "button", id: "more-filters", "aria-expanded": "false", "aria-controls": "filters", onclick: fold }, "Filters")),
      h("div", { id: "filters", hidden: true })),
    h("aside", { "aria-label": "History and recommendations" },
      h("div", { class: "panel" },
        h("h2", {}, "History", h("button", { class: "link", id: "clear", hidden: true, onclick: forget }, "clear")),
        h("ol", { id: "history", class: "chips" }),
        h("details", {}, h("summary", {}, "More"),
          h("form", { class: "user", onsubmit: (event) => { event.preventDefault(); loadUser($("user").value.trim()); } },
            h("label", { for: "user" }, "Take that of user"), h("input", { id: "user", placeholder: "id", maxlength: 200, autocomplete: "off" }), h("button", { class: "plain" }, "Load")),
          h("label", { class: "switch" }, h("input", { type: "checkbox", id: "sending", onchange: () => { sending = $("sending").checked; changed("history"); } }), "Send my clicks to the service as events"))),
      h("div", { class: "panel" },
        h("h2", {}, "Recommended", h("span", { id: "speed", class: "quiet" })),
        h("p", { id: "said", class: "quiet", role: "status" }),
        h("ol", { id: "recommended", class: "list" }))),
    h("div", { class: "main" },
      h("p", { class: "quiet line" }, h("span", { id: "found", role: "status" }), h("button", { class: "link", id: "no-filters", hidden: true, onclick: reset }, "clear filters")),
      h("ul", { id: "grid", class: "grid" }),
      h("button", { id: "more", class: "wide", hidden: true, onclick: () => look(true) }, "Show more")));
  onChange((what) => {
    mark(root);
    if (what === "history") {
      showHistory();
      recommend();
    }
  });
  $("model").addEventListener("change", () => { recommend(); if ($("search").value.trim()) look(); });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.target.closest("input, select, textarea, dialog") && !root.hidden) {
      event.preventDefault();
      $("search").focus();
    }
  });
}

export async function openBrowse() {
  const found = await tell(() => get("/v1/columns"));
  if (!found) return;
  state.pictures = found.pictures;
  columns = found.columns;
  showFilters();
  showHistory();
  await Promise.all([look(), recommend()]);
}

let waiting = 0;
function soon() {
  clearTimeout(waiting);
  waiting = setTimeout(look, 150);
}

/** Fills the grid: by words where some are given, else a page of the catalogue. */
const look = latest(async (signal, more = false) => {
  const text = $("search").value.trim();
  $("no-filters").hidden = !filters.size;
  offset = more === true ? offset + PAGE : 0;
  let found, total;
  if (text) {
    const k = Math.min(offset + PAGE, state.items);
    const told = { text, k, ...(where() && { where: where() }), ...(chosen() && { model: chosen() }) };
    const answer = await post("/v1/search", told, signal);
    const items = answer.items.slice(offset).map((one) => one.item);
    const query = new URLSearchParams(items.map((item) => ["item", item]));
    found = items.length ? remember((await get(`/v1/catalogue?${query}`, signal)).items) : [];
    total = answer.items.length;
    $("more").hidden = answer.items.length < k || k >= state.items;
    $("found").textContent = `${times(total, "item")} for “${text}”` + ($("more").hidden ? "" : " so far");
    if (!total && answer.reasons.length) toast(answer.reasons[0]);
  } else {
    const query = new URLSearchParams({ offset, limit: PAGE, ...(where() && { where: where() }) });
    const page = await get(`/v1/catalogue?${query}`, signal);
    found = remember(page.items);
    total = page.total;
    $("more").hidden = offset + PAGE >= total;
    $("found").textContent = `${times(total, "item")}, those taken most often first`;
  }
  const cards = found.map(gridCard);
  if (more === true) {
    $("grid").append(...cards);
    cards[0]?.querySelector("button").focus();
  } else if (cards.length) $("grid").replaceChildren(...cards);
  else $("grid").replaceChildren(h("li", { class: "none" }, empty("Nothing found", filters.size ? "No item fits these filters." : "Try other words.")));
}, "grid");

// Filters -------------------------------------------------------------------------------------------------------------

function fold() {
  const open = $("filters").hidden;
  $("filters").hidden = !open;
  $("more-filters").setAttribute("aria-expanded", String(open));
}

function reset() {
  filters.clear();
  showFilters();
  look();
  $("search").focus();
}

function set(key, condition) {
  if (condition) filters.set(key, condition);
  else filters.delete(key);
  $("more-filters").textContent = filters.size ? `Filters (${filters.size})` : "Filters";
  look();
}

function showFilters() {
  $("more-filters").textContent = "Filters";
  $("filters").replaceChildren(...columns.slice(0, 12).map((column) => (column.kind === "number" ? between(column) : choice(column))),
    h("label", { class: "condition" }, "A condition of your own",
      h("input", { placeholder: "SQL, such as price < 20 AND NOT brand = 'Acme'", maxlength: 900, spellcheck: "false",
        onchange: (event) => set("", event.target.value.trim() && `(${event.target.value.trim()})`) })));
}

function choice({ name, kind, values }) {
  const condition = (value) => (kind === "beginning" ? `STARTS_WITH(${word(name)}, ${literal(value)})` : `${word(name)} = ${literal(value)}`);
  const options = values.map(({ value, items }, at) => h("option", { value: at }, `${value} (${count(items)})`));
  return h("label", {}, name, h("select", { "data-column": name, onchange: (event) => set(name, event.target.value && condition(values[event.target.value].value)) },
    h("option", { value: "" }, "any"), options));
}

function between({ name, lowest, highest }) {
  const low = h("input", { type: "number", step: "any", placeholder: `from ${lowest}`, "aria-label": `${name}, at least` });
  const high = h("input", { type: "number", step: "any", placeholder: `to ${highest}`, "aria-label": `${name}, at most` });
  const read = () => set(name, [low.value && `${word(name)} >= ${Number(low.value)}`, high.value && `${word(name)} <= ${Number(high.value)}`].filter(Boolean).join(" AND "));
  low.onchange = high.onchange = read;
  return h("div", { class: "between", role: "group", "aria-label": name }, h("span", { "aria-hidden": "true" }, name), h("span", { class: "pair" }, low, "–", high));
}

// History and what follows of it --------------------------------------------------------------------------------------

/** Brings what the cards say of themselves up to date; they stay where they are, and so does the focus. */
function mark(root) {
  for (const card of root.querySelectorAll(".card")) {
    const inside = state.history.includes(card.dataset.item), kept = state.basket.includes(card.dataset.item);
    card.querySelector(".pick").setAttribute("aria-pressed", String(inside));
    card.querySelector(".state").textContent = inside ? "✓ in history" : "";
    const button = card.querySelector(".to-basket");
    button.setAttribute("aria-pressed", String(kept));
    button.firstChild.textContent = kept ? "✓ basket" : "+ basket";
  }
}

function showHistory() {
  const items = state.history;
  $("clear").hidden = !items.length && state.user === null;
  const chips = items.map((item) => h("li", {}, h("button", { class: "chip", title: titleOf(item), "aria-label": `Take out: ${titleOf(item)}`, onclick: () => remove(item) },
    h("span", {}, titleOf(item)), h("span", { "aria-hidden": "true" }, "×"))));
  if (chips.length) $("history").replaceChildren(...chips);
  else $("history").replaceChildren(h("li", { class: "quiet" }, state.user === null ? "Choose items, and see what changes." : `What the service knows of user ${state.user}.`));
}

function forget() {
  state.user = null;
  clear("history");
  $("search").focus();
}

function remove(item) {
  const at = state.history.indexOf(item);
  toggle("history", item);
  const chips = $("history").querySelectorAll("button");
  (chips[Math.min(at, chips.length - 1)] ?? $("search")).focus();
}

async function loadUser(id) {
  if (!id) return;
  state.user = id;
  state.history.length = 0;
  const known = await get(`/v1/users/${encodeURIComponent(id)}`).catch((error) => {
    toast(error.status === 403 ? "This key may not see histories; the service answers by what it knows." : error.message, error.status === 403 ? "" : "error");
    if (error.status !== 403) state.user = null;
    return null;
  });
  if (known) {
    state.history.push(...new Set(known.history.slice(-LAST)));
    state.user = state.history.length ? null : id;
    await tell(() => learn(state.history));
  }
  changed("history");
}

let impression = null;
const sent = new Set();

async function sendClicks() {
  const events = state.history.filter((item) => !sent.has(item))
    .map((item) => ({ id: `${visitor}-${item}`.slice(0, 200), user: visitor, item, kind: "view", ...(impression?.items.has(item) && { impression: impression.id }) }));
  if (!events.length) return;
  try {
    await post("/v1/events/bulk", { events });
    for (const { item } of events) sent.add(item);
  } catch (error) {
    toast(`Clicks are not sent: ${error.message}`, "error");
    $("sending").checked = sending = false;
  }
}

const recommend = latest(async (signal) => {
  const start = performance.now();
  if (sending) await sendClicks();
  const who = state.user !== null && !state.history.length ? { user: state.user } : { history: state.history };
  const k = Math.max(1, Math.min(LISTED, state.items));
  const answer = await post("/v1/recommend", { ...who, k, ...(chosen() && { model: chosen() }) }, signal);
  const took = performance.now() - start;
  impression = { id: answer.id, items: new Set(answer.items.map((one) => one.item)) };
  await learn(answer.items.map((one) => one.item), signal);
  fill($("recommended"), answer, (item) => toggle("history", item), "Add to the history", empty("No recommendations", "The model has nothing to name here."));
  $("speed").textContent = `${answer.model}, ${ms(took)}`;
  $("said").textContent = answer.reasons.join("; ");
  $("said").hidden = !answer.reasons.length;
  await explain($("recommended"), answer, [...state.history], signal);
}, "recommended");
