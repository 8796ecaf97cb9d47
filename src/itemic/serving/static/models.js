// What answers: what each model is made of, how they compare, how they learned, what their codes are worth.

import { get, tell } from "./api.js";
import { empty, h, percent, table, times } from "./dom.js";
import { curve, intervals, use } from "./plots.js";

export async function openModels(root) {
  const told = await tell(() => get("/v1/models"));
  if (!told) return;
  root.replaceChildren(
    h("h2", {}, "Measured"), ...compared(told.comparison, told.models),
    h("h2", {}, "Served"), h("div", { class: "served" }, told.models.map(served)));
}

const size = (bytes) => (bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.ceil(bytes / 1e3)} kB`);

function paper(name) {
  if (!name) return null;
  const address = name.startsWith("arXiv:") ? `https://arxiv.org/abs/${name.slice(6)}` : `https://doi.org/${name.replace(/^doi:/, "")}`;
  return h("a", { href: address, rel: "noreferrer" }, name);
}

function served(model) {
  const ranker = model.ranker ? `, ranked by ${model.ranker}` : "";
  return h("article", { class: "panel" },
    h("h3", {}, model.name),
    h("p", { class: "quiet" }, `asks ${model.sources.join(", ")}${ranker}; answers by ${model.answers.join(", ")}`),
    model.parts.map(part));
}

function part(one) {
  const fitted = one.fitted_on;
  const facts = {
    system: [one.system, one.family && ` (${one.family})`, one.paper && " ", paper(one.paper)],
    "fitted on": [fitted.name, fitted.interactions !== undefined && `, ${times(fitted.interactions, "interaction")}`],
    took: fitted.seconds !== undefined && [`${fitted.seconds} s`, fitted.epochs && `, ${times(fitted.epochs, "epoch")}`, fitted.best_epoch && `, best ${fitted.best_epoch}`],
    size: size(one.bytes),
    "new items": one.new_items ? "ranked at once" : "after the next fit",
  };
  const options = Object.entries(one.options).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value === null ? "–" : JSON.stringify(value).replaceAll('"', ""))]);
  return h("div", { class: "part" },
    h("dl", { class: "facts" }, Object.entries(facts).filter(([, value]) => value).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    options.length > 0 && h("details", {}, h("summary", {}, `${times(options.length, "option")}`), h("dl", { class: "facts" }, options)),
    curves(one), one.codes.map(codes));
}

/** A line for each metric that was watched while it learned. */
function curves(one) {
  const metrics = Object.keys(one.curve[0] ?? {}).filter((name) => name.includes("@"));
  return metrics.map((name) => {
    const points = one.curve.map((line, at) => ({ x: line.epoch ?? at + 1, y: line[name] })).filter((point) => typeof point.y === "number");
    return points.length > 1 && curve(`${name} on the validation part`, points);
  });
}

function codes(of) {
  const judged = typeof of.levels[0]?.purity === "number";
  const rows = of.levels.map((level, at) => ({ cells: [
    String(at + 1), level.size, `${percent(level.used / level.size)}`, `${level.entropy.toFixed(2)} of ${Math.log2(level.size).toFixed(2)}`,
    ...(judged ? [`${percent(level.purity)} (${percent(level.chance)})`] : []),
  ] }));
  return h("div", {},
    h("h4", {}, `Codes by ${of.tokenizer}`),
    h("p", { class: "quiet" }, `${times(of.items, "item")}; ${of.sharing ? `${of.sharing} share theirs with another` : "all are told apart"}`),
    table("Use of the codes by level", ["level", "codes", "used", "entropy, bits", ...(judged ? ["purity (by chance)"] : [])], rows),
    judged && h("p", { class: "quiet" }, `Purity: of ${times(of.judged, "item")}, the share whose ${of.category} is the commonest of those with the same codes up to this level.`),
    h("div", { class: "figures" }, of.levels.map((level, at) => use(`level ${at + 1}`, level.counts, level.size))),
    h("p", { class: "quiet" }, "Items by code, the most frequent first; dashes: an even use."));
}

function compared(found, models) {
  if (!found) {
    return [empty("No comparison yet", "Beside the folders of the models there is no comparison.json. Make one: ", h("code", {}, "itemic compare runs/* my-data --json > runs/comparison.json"))];
  }
  const known = new Set(models.flatMap((model) => [model.name, ...model.parts.flatMap((one) => [one.role, one.system])]));
  const metrics = Object.keys(found.systems[0]?.metrics ?? {});
  const extra = Object.keys(found.systems[0] ?? {}).filter((name) => name.startsWith("coverage@"));
  const rows = found.systems.map((one) => ({
    class: known.has(one.name) ? "on" : null,
    cells: [one.name + (known.has(one.name) ? " ●" : ""),
      ...metrics.map((name) => one.metrics[name].mean.toFixed(4)),
      ...extra.map((name) => percent(one[name], 1)),
      one.fit_seconds === null ? "–" : one.fit_seconds.toFixed(2),
      against(one, metrics[0], found.baseline)],
  }));
  const about = `${found.dataset}: split ${found.split}; ${found.protocol}; ${times(found.queries, "user")}. Dots mark what is served; intervals of 95 %.`;
  return [
    h("p", { class: "quiet" }, about),
    table("Comparison of the systems", ["system", ...metrics, ...extra, "fit, s", "against best baseline"], rows),
    h("div", { class: "figures" }, metrics.map((name) => intervals(name, found.systems.map((one) => ({ name: one.name, on: known.has(one.name), ...one.metrics[name] }))))),
    h("p", { class: "quiet" }, (found.notes ?? []).join(" ")),
  ];
}

function against(one, metric, baseline) {
  const found = one.metrics[metric]?.against;
  if (!found) return one.name === baseline ? "best baseline" : "–";
  const change = found.relative === null ? found.difference.toFixed(4) : percent(found.relative, 1);
  return `${found.difference > 0 ? "+" : ""}${change.replace("-", "−")}  p ${found.p < 0.001 ? "< 0.001" : `= ${found.p.toFixed(3)}`}`;
}
