// Small drawings of numbers. What they show stands in a table or in words beside them too.

import { h, s } from "./dom.js";

const nice = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : Number(value.toPrecision(3)).toString());

/** The next of 1, 2 and 5 and their tenfolds. */
function rounded(value) {
  const ten = 10 ** Math.floor(Math.log10(value));
  return ten * [1, 2, 5, 10].find((one) => one * ten >= value * 0.999);
}

const figure = (caption, drawing) => h("figure", {}, h("figcaption", {}, caption), drawing);

/** Means with intervals, a row each, best first; `on` marks the rows that are served. */
export function intervals(caption, rows) {
  const width = Math.max(260, Math.min(520, innerWidth - 72)), left = width < 400 ? 96 : 130, right = 60, line = 26, height = rows.length * line + 22;
  const lowest = Math.min(...rows.map((row) => row.low)), highest = Math.max(...rows.map((row) => row.high));
  const step = rounded((highest - lowest) / (width < 400 ? 3 : 4) || 1), from = Math.floor(lowest / step), to = Math.ceil(highest / step);
  const x = (value) => left + ((value / step - from) / (to - from || 1)) * (width - left - right);
  const ticks = Array.from({ length: to - from + 1 }, (_, at) => (from + at) * step);
  return figure(caption, s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": caption },
    ticks.map((tick) => s("g", { class: "axis" }, s("line", { x1: x(tick), x2: x(tick), y1: 0, y2: height - 20 }), s("text", { x: x(tick), y: height - 4, "text-anchor": "middle" }, nice(tick)))),
    rows.map((row, at) => {
      const y = at * line + line / 2;
      return s("g", { class: row.on ? "series on" : "series" },
        s("text", { x: left - 12, y: y + 4, "text-anchor": "end" }, row.name.length > left / 7.5 ? `${row.name.slice(0, left / 7.5 - 1)}…` : row.name),
        s("line", { x1: x(row.low), x2: x(row.high), y1: y, y2: y }), s("circle", { cx: x(row.mean), cy: y, r: 4.5 }),
        s("text", { x: width - right + 10, y: y + 4 }, row.mean.toFixed(4)));
    })));
}

/** A line over steps, with its first, best and last value. */
export function curve(caption, points) {
  const width = 320, height = 120, ys = points.map((point) => point.y), xs = points.map((point) => point.x);
  const low = Math.min(...ys), high = Math.max(...ys), first = Math.min(...xs), last = Math.max(...xs);
  const x = (value) => 8 + ((value - first) / (last - first || 1)) * (width - 16);
  const y = (value) => height - 24 - ((value - low) / (high - low || 1)) * (height - 48);
  const best = points.find((point) => point.y === high);
  return figure(caption, s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${caption}: from ${nice(ys[0])} to ${nice(ys.at(-1))}, best ${nice(high)}` },
    s("polyline", { class: "line", points: points.map((point) => `${x(point.x)},${y(point.y)}`).join(" ") }),
    s("circle", { class: "dot", cx: x(best.x), cy: y(best.y), r: 4 }),
    s("text", { x: Math.min(Math.max(x(best.x), 20), width - 24), y: y(best.y) - 9, "text-anchor": "middle" }, nice(high)),
    s("text", { class: "faint", x: 8, y: height - 6 }, `epoch ${first}`), s("text", { class: "faint", x: width - 8, y: height - 6, "text-anchor": "end" }, last)));
}

/** How many items each code has, the most frequent first; the dashed line is an even use. */
export function use(caption, counts, size) {
  const width = 240, height = 90, top = counts[0] || 1, even = counts.reduce((a, b) => a + b, 0) / size;
  const y = (value) => height - 4 - (value / top) * (height - 12);
  const points = counts.map((value, at) => `${(at / size) * width},${y(value)} ${((at + 1) / size) * width},${y(value)}`).join(" ");
  const end = (counts.length / size) * width;
  return figure(caption, s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${caption}: items by code, at most ${counts[0] ?? 0}` },
    s("polygon", { class: "area", points: `0,${y(0)} ${points} ${end},${y(0)}` }),
    s("line", { class: "even", x1: 0, x2: width, y1: y(even), y2: y(even) })));
}

/** Requests in each second; the newest on the right. */
export function traffic(caption, values) {
  const width = 600, height = 96, top = Math.max(4, ...values), bar = width / values.length;
  return figure(caption, s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", preserveAspectRatio: "none", "aria-label": `${caption}, at most ${top}` },
    values.map((value, at) => value && s("rect", { class: "bar-of", x: at * bar + 1, width: Math.max(1, bar - 2), y: height - (value / top) * (height - 4), height: (value / top) * (height - 4), rx: 1.5 })),
    s("line", { class: "floor", x1: 0, x2: width, y1: height - 0.5, y2: height - 0.5 })));
}

/** A share with its interval, between 0 and the largest that is shown. */
export function share(low, mean, high, most) {
  const x = (value) => (value / (most || 1)) * 156 + 2;
  return s("svg", { viewBox: "0 0 160 16", width: 160, height: 16, "aria-hidden": "true" },
    s("line", { class: "floor", x1: 0, x2: 160, y1: 8, y2: 8 }),
    s("g", { class: "series on" }, s("line", { x1: x(low), x2: x(high), y1: 8, y2: 8 }), s("circle", { cx: x(mean), cy: 8, r: 4 })));
}
