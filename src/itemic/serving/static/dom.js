// Elements, made without HTML: whatever comes from outside becomes text and nothing else.

const SVG = "http://www.w3.org/2000/svg";

function filled(element, given, children) {
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, set] of Object.entries(value)) element.style.setProperty(key, set);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An element with attributes (those that begin with "on" are listeners) and children, elements or text. */
export const h = (tag, given = {}, ...children) => filled(document.createElement(tag), given, children);

/** The same of a drawing. */
export const s = (tag, given = {}, ...children) => filled(document.createElementNS(SVG, tag), given, children);

export const $ = (id) => document.getElementById(id);

/** A note that goes away by itself; an error stays longer. */
export function toast(text, kind = "") {
  const said = [...$("toasts").children].find((one) => one.firstChild.textContent === text);
  if (said) return;
  const one = h("div", { class: `toast ${kind}` }, h("span", {}, text));
  one.append(h("button", { class: "plain", "aria-label": "Dismiss", onclick: () => one.remove() }, "×"));
  $("toasts").append(one);
  setTimeout(() => one.remove(), kind === "error" ? 9000 : 4000);
}

export const empty = (title, ...text) => h("div", { class: "empty" }, h("strong", {}, title), h("p", {}, ...text));

const whole = new Intl.NumberFormat("en");
export const count = (n) => whole.format(n);
export const times = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
export const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;

/** Milliseconds in three digits. */
export const ms = (value) => (value === null ? "–" : `${value >= 100 ? value.toFixed(0) : value.toPrecision(value < 1 ? 2 : 3)} ms`);

/** A table of cells; columns named in `numbers` are aligned right. */
export function table(caption, columns, rows, numbers = () => true) {
  const kind = (at) => (at > 0 && numbers(at) ? "number" : null);
  const head = columns.map((name, at) => h("th", { scope: "col", class: kind(at) }, name));
  const body = rows.map(({ cells, ...given }) =>
    h("tr", given, cells.map((cell, at) => h(at ? "td" : "th", { class: kind(at), scope: at ? null : "row" }, cell))));
  return h("div", { class: "scroll", role: "region", "aria-label": caption, tabindex: "0" },
    h("table", {}, h("caption", { class: "hidden" }, caption), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)));
}
