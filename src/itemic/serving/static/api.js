// The service: requests with the key, where it wants one, and its errors in its words.

import { $, h, toast } from "./dom.js";

const KEY = "itemic-key"; // kept for the session of this tab, and nowhere else
let asking = null;

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

function headers(more) {
  const key = sessionStorage.getItem(KEY);
  return key ? { ...more, authorization: `Bearer ${key}` } : more;
}

/** The response to a request; asks for the key where the service wants one, once for all who wait. */
export async function send(path, options = {}) {
  const used = sessionStorage.getItem(KEY);
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers(options.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The service does not answer. Is it running?");
  }
  if (response.status === 401) {
    if (used === sessionStorage.getItem(KEY)) await askKey(used !== null);
    return send(path, options);
  }
  if (!response.ok) {
    const said = await response.json().catch(() => ({}));
    throw new Refused(response.status, said.detail ?? `The service answered ${response.status}.`);
  }
  return response;
}

export const get = async (path, signal) => (await send(path, { signal })).json();

export const post = async (path, body, signal) =>
  (await send(path, { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" }, signal })).json();

function askKey(wrong) {
  asking ??= new Promise((resolve) => {
    const input = h("input", { id: "key", type: "password", autocomplete: "off", required: true, spellcheck: "false" });
    const form = h("form", {
      onsubmit: (event) => {
        event.preventDefault();
        sessionStorage.setItem(KEY, input.value.trim());
        dialog.close();
        dialog.remove();
        asking = null;
        resolve();
      },
    },
    h("h2", { id: "key-title" }, "This service needs a key"),
    h("p", { class: wrong ? "wrong" : "quiet" }, wrong ? "It does not know that key. Give another." : "It is kept until you close this tab, and sent to this service only."),
    h("label", { for: "key" }, "Key"), input, h("button", { class: "primary" }, "Go on"));
    const dialog = h("dialog", { "aria-labelledby": "key-title", oncancel: (event) => event.preventDefault() }, form);
    document.body.append(dialog);
    dialog.showModal();
    input.focus();
  });
  return asking;
}

/** Runs what may be refused, and tells it in a toast; what was given up says nothing. */
export async function tell(work) {
  try {
    return await work();
  } catch (error) {
    if (error.name !== "AbortError") toast(error.message, "error");
    return null;
  }
}

/** A function that gives up its last request when it is called again; what it fills is busy meanwhile. */
export function latest(work, fills) {
  let last = new AbortController();
  return async (...given) => {
    last.abort();
    const mine = (last = new AbortController());
    $(fills).setAttribute("aria-busy", "true");
    await tell(() => work(mine.signal, ...given));
    if (mine === last) $(fills).removeAttribute("aria-busy");
  };
}

const watcher = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    watcher.unobserve(target);
    show(target);
  }
}, { rootMargin: "300px" });

async function show(image) {
  try {
    const blob = await (await send(`/v1/pictures/${encodeURIComponent(image.dataset.item)}`)).blob();
    image.onload = image.onerror = () => URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(blob);
  } catch {
    image.closest(".picture").classList.add("none");
    image.remove();
  }
}

/** The picture of an item, asked for when it comes into sight; the title beside it says what it shows. */
export function picture(item, has) {
  if (!has) return h("span", { class: "picture none", "aria-hidden": "true" });
  const image = h("img", { alt: "", "data-item": item });
  watcher.observe(image);
  return h("span", { class: "picture" }, image);
}

/** The pipeline that the reader chose; null lets the service choose. */
export const chosen = () => $("model").value || null;
