// What the service does now: requests, how long they take, and what becomes of its lists.

import { get, latest } from "./api.js";
import { count, empty, h, ms, percent, table } from "./dom.js";
import { share, traffic } from "./plots.js";

const EVERY = 2000;
let timer = 0;

/** Shows the traffic, and again and again until `closeLive`. */
export function openLive(root) {
  clearInterval(timer);
  timer = setInterval(() => document.visibilityState === "visible" && look(root), EVERY);
  return look(root);
}

export const closeLive = () => clearInterval(timer);

const look = latest(async (signal, root) => {
  const now = await get("/v1/live", signal);
  const newest = now.by_second.slice(-10);
  const perSecond = newest.reduce((a, b) => a + b, 0) / newest.length;
  const tiles = [["requests a second", perSecond.toFixed(1)], ["in the last minute", count(now.all.requests)], ["refused or failed", count(now.all.failed)],
    ["median", ms(now.all.p50)], ["95 of 100 within", ms(now.all.p95)], ["99 of 100 within", ms(now.all.p99)]];
  const most = Math.max(0, ...now.models.map((one) => one.interval[1]));
  const scrolled = [...root.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
  const focused = [...root.querySelectorAll(".scroll")].indexOf(document.activeElement);
  root.replaceChildren(
    h("dl", { class: "tiles" }, tiles.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    traffic("Requests in each of the last 60 seconds", now.by_second),
    h("h2", {}, "By path"),
    now.paths.length
      ? table("Latency by path", ["path", "requests", "failed", "p50", "p95", "p99"], now.paths.map((one) => ({ cells: [one.path, count(one.requests), count(one.failed), ms(one.p50), ms(one.p95), ms(one.p99)] })))
      : empty("No requests in the last minute", "Browse a little, or send some, and they are here within two seconds."),
    h("h2", {}, "By model"),
    now.models.length
      ? table("Clicks by model", ["model", "lists", "clicked", "click rate", "95 % interval"], now.models.map((one) => ({
        cells: [one.model, count(one.lists), count(one.clicked), percent(one.rate, 1), h("span", { class: "beside" }, `${percent(one.interval[0], 1)} to ${percent(one.interval[1], 1)}`, share(one.interval[0], one.rate, one.interval[1], most))] })))
      : empty("No list was shown yet", "Each answer is logged with its model; an event that names the answer is a click."));
  [...root.querySelectorAll(".scroll")].forEach((one, at) => {
    one.scrollLeft = scrolled[at] ?? 0;
    if (at === focused) one.focus({ preventScroll: true });
  });
}, "live");
