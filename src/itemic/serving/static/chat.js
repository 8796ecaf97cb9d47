// A conversation with a model that can hold one.
//
// The tab is there when /v1/models says of a model `"chats": true`. What is asked of the service:
//   POST /v1/chat {"messages": [{"role": "user" | "assistant", "text": "..."}, ...], "model": "..."}   oldest first
//   answered by text/event-stream, in this order:
//   event: text   data: {"text": "a piece of the answer"}      any number of times
//   event: list   data: {"items": [{"item": "a", "title": "Cup", "reason": "..."}]}      once, at the end; may be empty
// An error before the first event is problem+json as everywhere; after it, `event: error  data: {"detail": "..."}`.

import { chosen, send } from "./api.js";
import { $, empty, h, toast } from "./dom.js";
import { listed } from "./cards.js";
import { learn, toggle } from "./state.js";

const said = [];
let able = [];

export function makeChat(root) {
  root.append(
    h("div", { class: "panel talk" },
      h("h2", {}, "Chat", h("button", { class: "link", onclick: again }, "begin again")),
      h("div", { id: "talk", role: "log", "aria-live": "polite", "aria-label": "Conversation", tabindex: "0" }),
      h("form", { onsubmit: (event) => { event.preventDefault(); ask($("say").value.trim()); } },
        h("input", { id: "say", "aria-label": "What are you looking for?", placeholder: "What are you looking for?", maxlength: 1000, autocomplete: "off" }),
        h("button", { class: "primary", id: "ask" }, "Ask"))));
  again();
}

/** Says which models can chat. */
export const allow = (names) => { able = names; };

function again() {
  said.length = 0;
  $("talk").replaceChildren(h("div", {}, empty("Nothing said yet", "Ask for something as you would ask a person who knows the catalogue.")));
}

async function ask(text) {
  if (!text || $("ask").disabled) return;
  if (!said.length) $("talk").replaceChildren();
  said.push({ role: "user", text });
  const answer = h("p", {}), list = h("ol", { class: "list" });
  $("talk").append(h("div", { class: "mine" }, h("p", {}, text)), h("div", { class: "theirs", "aria-busy": "true" }, answer, list));
  $("say").value = "";
  $("ask").disabled = true;
  try {
    const model = able.includes(chosen()) ? chosen() : able[0];
    const response = await send("/v1/chat", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ messages: said, model }) });
    for await (const { event, data } of events(response.body)) {
      if (event === "text") answer.append(data.text);
      else if (event === "list") await showList(list, data.items);
      else if (event === "error") throw new Error(data.detail);
      $("talk").scrollTop = $("talk").scrollHeight;
    }
    said.push({ role: "assistant", text: answer.textContent });
  } catch (error) {
    toast(error.message, "error");
    said.pop();
    if (!answer.textContent) answer.parentElement.remove();
  } finally {
    answer.parentElement?.removeAttribute("aria-busy");
    $("ask").disabled = false;
    $("say").focus();
  }
}

async function showList(list, items) {
  await learn(items.map((one) => one.item));
  list.replaceChildren(...items.map((one, at) => {
    const row = listed(one, at + 1, () => toggle("history", one.item), "Add to the history");
    if (one.reason) row.querySelector(".why").append(one.reason);
    return row;
  }));
}

/** The events of a stream as they come. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { value, done } = await reader.read();
    rest = (rest + (value ?? "")).replaceAll("\r\n", "\n");
    for (let end; (end = rest.indexOf("\n\n")) >= 0; rest = rest.slice(end + 2)) {
      const lines = rest.slice(0, end).split("\n");
      const of = (name) => lines.filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1).trim()).join("\n");
      if (of("data")) yield { event: of("event") || "message", data: JSON.parse(of("data")) };
    }
    if (done) return;
  }
}
