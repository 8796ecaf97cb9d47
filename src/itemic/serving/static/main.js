// Tabs, and what is known before any of them is opened.

import { get, tell } from "./api.js";
import { makeBasket } from "./basket.js";
import { makeBrowse, openBrowse } from "./browse.js";
import { allow, makeChat } from "./chat.js";
import { $, empty, h, times } from "./dom.js";
import { closeLive, openLive } from "./live.js";
import { openModels } from "./models.js";
import { state } from "./state.js";

const tabs = [...document.querySelectorAll("[role=tab]")];

function open(name, focus = false) {
  const tab = $(`tab-${name}`);
  if (!tab || tab.hidden) return;
  for (const one of tabs) {
    const mine = one === tab;
    one.setAttribute("aria-selected", String(mine));
    one.tabIndex = mine ? 0 : -1;
    $(one.getAttribute("aria-controls")).hidden = !mine;
  }
  if (focus) tab.focus();
  tab.scrollIntoView({ block: "nearest", inline: "nearest" });
  if (location.hash !== `#${name}`) history.replaceState(null, "", `#${name}`);
  document.title = `${tab.firstChild.textContent.trim()} – Itemic`;
  closeLive();
  if (name === "models") openModels($("models"));
  if (name === "live") openLive($("live"));
}

function walk(event) {
  const shown = tabs.filter((tab) => !tab.hidden);
  const at = shown.indexOf(event.target);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: shown.length - 1 }[event.key];
  if (at < 0 || to === undefined) return;
  event.preventDefault();
  open(shown[(to + shown.length) % shown.length].getAttribute("aria-controls"), true);
}

async function start() {
  for (const tab of tabs) tab.addEventListener("click", () => open(tab.getAttribute("aria-controls")));
  document.querySelector("[role=tablist]").addEventListener("keydown", walk);
  addEventListener("hashchange", () => open(location.hash.slice(1)));
  makeBrowse($("browse"));
  makeBasket($("basket"), (name) => open(name, true));
  makeChat($("chat"));
  const ready = await tell(() => get("/v1/ready"));
  if (!ready) {
    $("browse").replaceChildren(empty("Nobody answers", "Load this page again when the service runs."));
    return;
  }
  state.items = ready.items;
  $("model").replaceChildren(...(ready.models.length > 1 ? [h("option", { value: "" }, "default")] : []),
    ...ready.models.map((name) => h("option", { value: name }, name)));
  $("about").textContent = `${times(ready.items, "item")}, ${times(ready.models.length, "model")}`;
  const browsing = openBrowse();
  const told = await tell(() => get("/v1/models"));
  const chats = told?.models.filter((one) => one.chats).map((one) => one.name) ?? [];
  allow(chats);
  $("tab-chat").hidden = !chats.length;
  if (location.hash) open(location.hash.slice(1));
  await browsing;
  document.body.dataset.ready = "true";
}

start();
