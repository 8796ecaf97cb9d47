// Walks through the page in Chromium as people do. Reads {chromium, open, locked, key, pictures?} from standard input and
// prints {flow: null, or what was wrong} as JSON.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

import { chromium } from "playwright-core";

const given = JSON.parse(readFileSync(0, "utf8"));
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const TABS = ["browse", "basket", "chat", "models", "live"];
const HOSTILE = "<img src=x onerror=alert(1)>";
const WIDE = { width: 1280, height: 860 };

const texts = (page, selector) => page.locator(selector).allInnerTexts();
const ids = (page, selector) => page.locator(selector).evaluateAll((all) => all.map((one) => one.dataset.item));
const pick = async (page, item) => (await card(page, item)).locator(".pick").click();
const keep = async (page, item) => (await card(page, item)).locator(".to-basket").click();
const seen = (page, about, wanted) => page.waitForFunction(about, wanted);
const recommended = (page) => ids(page, "#recommended li");
const ready = (page) => page.waitForSelector("body[data-ready]");

async function go(page, at = "") {
  await page.goto(given.open + "/" + at);
  await ready(page);
}

/** The card of an item, on whatever page of the catalogue it is. */
async function card(page, item) {
  const found = page.locator(`#grid .card[data-item="${item}"]`);
  if (!(await found.count())) await page.click("#more");
  return found;
}

/** Waits until the recommendations follow a history of so many items, with all reasons. */
const settled = (page, length) => seen(page, (n) =>
  document.querySelectorAll("#history .chip").length === n && document.querySelector("#recommended .why") && !document.querySelector("#recommended[aria-busy]"), length);

/** A model that chats and the stream of its answer, until the service has one. */
async function withChat(page, answer) {
  await page.route("**/v1/models", async (route) => {
    const response = await route.fetch();
    const told = await response.json();
    told.models[0].chats = true;
    await route.fulfill({ response, json: told });
  });
  await page.route("**/v1/chat", (route) => answer(route));
}

const stream = (...events) => ({ contentType: "text/event-stream", body: events.map(([event, data]) => `event: ${event}\ndata: ${JSON.stringify(data)}\n\n`).join("") });

const flows = {
  async browsing_goes_page_by_page_and_filters_hold(page) {
    await go(page);
    assert.equal(await page.locator("#grid .card").count(), 24);
    await page.click("#more");
    await seen(page, () => document.querySelectorAll("#grid .card").length === 40);
    assert.equal(await page.locator("#more").isVisible(), false);
    assert.equal(new Set(await ids(page, "#grid .card")).size, 40);
    await page.click("#more-filters");
    await page.selectOption("#filters [data-column=colour]", { label: "blue (8)" });
    await seen(page, () => document.querySelectorAll("#grid .card").length === 8);
    assert.equal(await page.innerText("#found"), "8 items, those taken most often first");
    assert((await texts(page, "#grid .meta")).every((text) => text.includes("blue")));
    await page.getByLabel("price, at most").fill("10");
    await page.keyboard.press("Enter");
    await seen(page, () => document.querySelectorAll("#grid .card").length < 8);
    await page.getByLabel("A condition of your own").fill("nothing = 1");
    await page.keyboard.press("Enter");
    await page.waitForSelector(".toast.error");
    assert.match(await page.innerText(".toast.error"), /cannot apply where .*nothing/);
    await page.click("#no-filters");
    await seen(page, () => document.querySelectorAll("#grid .card").length === 24);
  },

  async search_finds_words_and_says_when_there_are_none(page) {
    await go(page);
    await page.keyboard.press("/");
    await page.keyboard.type("item 7");
    await seen(page, () => document.querySelector("#grid .card")?.dataset.item === "7");
    await page.fill("#search", "zzz");
    await page.waitForSelector("#grid .empty");
    assert.match(await page.innerText("#grid"), /Nothing found/);
    await page.fill("#search", "");
    await seen(page, () => document.querySelectorAll("#grid .card").length === 24);
  },

  async a_history_changes_what_is_recommended_and_says_why(page) {
    await go(page);
    await page.selectOption("#model", "itemknn");
    await settled(page, 0);
    const trending = await recommended(page);
    assert.match(await page.innerText("#said"), /trending spoke/);
    for (const [n, item] of ["2", "6", "10"].entries()) {
      await pick(page, item);
      await settled(page, n + 1);
    }
    assert.equal(await page.locator('#grid .card[data-item="6"] .pick').getAttribute("aria-pressed"), "true");
    const liked = await recommended(page);
    assert.notDeepEqual(liked, trending);
    assert(liked.slice(0, 5).filter((item) => item % 4 === 2).length >= 4, `of group 2: ${liked}`);
    assert(!liked.some((item) => ["2", "6", "10"].includes(item)));
    const [why] = await texts(page, "#recommended .why");
    assert.match(why.replaceAll("\n", " "), /because of item (2|6|10) of group 2 \d+ %.*same group$/);
    await page.locator("#recommended .pick").first().click();
    await settled(page, 4);
    assert(!(await recommended(page)).includes(liked[0]));
    await page.click("#clear");
    await settled(page, 0);
    assert.deepEqual(await recommended(page), trending);
  },

  async another_model_answers_when_it_is_chosen(page) {
    await go(page);
    await pick(page, "3");
    await settled(page, 1);
    await page.selectOption("#model", "contentknn");
    await seen(page, () => document.querySelector("#speed").textContent.startsWith("contentknn"));
  },

  async the_history_of_a_user_is_taken(page) {
    await go(page);
    await page.locator("aside summary").click();
    await page.fill("#user", "3");
    await page.keyboard.press("Enter");
    await page.waitForSelector("#history .chip");
    assert((await page.locator("#history .chip").count()) > 2);
    await page.fill("#user", "nobody at all");
    await page.keyboard.press("Enter");
    await page.waitForSelector(".toast.error");
    assert.match(await page.innerText(".toast.error"), /nothing is known of a user 'nobody at all'/);
  },

  async a_basket_is_completed(page) {
    await go(page);
    for (const item of ["1", "5"]) await keep(page, item);
    assert.equal(await page.innerText("#basket-count"), "2");
    await page.click("#tab-basket");
    await seen(page, () => document.querySelectorAll("#completions .listed").length === 12);
    const first = (await ids(page, "#completions li"))[0];
    assert(!["1", "5"].includes(first));
    await page.locator("#completions .pick").first().click();
    await seen(page, () => document.querySelectorAll("#in-basket .listed").length === 3);
    await page.getByRole("button", { name: "Take out: item 5 of group 1" }).click();
    await seen(page, () => document.querySelectorAll("#in-basket .listed").length === 2);
    assert.deepEqual(await ids(page, "#in-basket li"), ["1", first]);
    await page.click("#empty-basket");
    assert.match(await page.innerText("#in-basket"), /The basket is empty/);
  },

  async models_are_shown_with_what_was_measured(page) {
    await go(page, "#models");
    await page.waitForSelector("#models table");
    const rows = await texts(page, "#models table >> nth=0 >> tbody tr");
    assert.match(rows[0], /^itemknn ●\s+0\.2000\s+0\.3000\s+50\.0 %\s+1\.50\s+\+100\.0 % p < 0\.001$/);
    assert.match(rows[1], /^popularity\s.*best baseline$/s);
    assert.equal(await page.locator("#models .figures svg").first().locator("circle").count(), 2);
    const [, two] = await texts(page, "#models article");
    assert.match(two, /contentknn[\s\S]*ranked at once/);
    await page.locator("#models article").first().locator("summary").click();
    assert.match(await page.innerText("#models article details"), /similarity\s+cosine/);
  },

  async what_trained_models_and_codes_have_to_show_is_drawn(page) {
    await page.route("**/v1/models", async (route) => {
      const response = await route.fetch(), told = await response.json();
      told.models[0].parts[0].curve = [{ epoch: 1, "ndcg@10": 0.1 }, { epoch: 2, "ndcg@10": 0.3 }, { epoch: 3, "ndcg@10": 0.2 }];
      told.models[0].parts[0].codes = [{ tokenizer: "rqvae", items: 60, sharing: 0, category: "kind", judged: 60, levels: [{ size: 4, used: 3, entropy: 1.5, counts: [30, 20, 10], purity: 0.9, chance: 0.4 }] }];
      told.comparison = null;
      await route.fulfill({ response, json: told });
    });
    await go(page, "#models");
    await page.waitForSelector("#models polyline");
    assert.equal(await page.getByRole("img", { name: "ndcg@10 on the validation part: from 0.1 to 0.2, best 0.3" }).count(), 1);
    assert.match(await page.innerText("#models article >> nth=0"), /Codes by rqvae\s+60 items; all are told apart[\s\S]*75 %\s+1\.50 of 2\.00\s+90 % \(40 %\)[\s\S]*whose kind is the commonest/);
    assert.equal(await page.locator("#models polygon").count(), 1);
    assert.match(await page.innerText("#models"), /No comparison yet/);
  },

  async live_tells_the_requests_just_made_and_the_clicks_that_were_sent(page) {
    await go(page);
    await page.locator("aside summary").click();
    await page.locator("#sending").check();
    await settled(page, 0);
    await page.locator("#recommended .pick").first().click();
    await settled(page, 1);
    await page.click("#tab-live");
    await seen(page, () => /\/v1\/recommend/.test(document.querySelector("#live table")?.innerText) && document.querySelectorAll("#live table").length === 2);
    const before = Number((await page.locator("#live tr", { hasText: "/v1/recommend" }).innerText()).split(/\s+/)[1]);
    const rates = await texts(page, "#live table >> nth=1 >> tbody tr");
    assert(rates.some((row) => /^itemknn\s+\d+\s+[1-9]/.test(row)), rates.join("; "));
    await page.evaluate(() => fetch("/v1/recommend", { method: "POST", headers: { "content-type": "application/json" }, body: '{"history":[]}' }));
    await seen(page, (n) => [...document.querySelectorAll("#live tr")].some((row) => row.innerText.startsWith("/v1/recommend") && Number(row.innerText.split(/\s+/)[1]) > n), before);
  },

  async the_key_is_asked_for_once_and_kept_for_the_session_only(page, context) {
    let dialogs = 0;
    await page.exposeFunction("counted", () => { dialogs += 1; });
    await page.addInitScript(() => new MutationObserver((all) => all.forEach((one) => one.addedNodes.forEach((node) => node.nodeName === "DIALOG" && window.counted()))).observe(document, { childList: true, subtree: true }));
    await page.goto(given.locked);
    await page.waitForSelector("dialog[open]");
    await page.fill("#key", "itemic_wrong");
    await page.keyboard.press("Enter");
    await page.waitForSelector("dialog .wrong");
    assert.equal(await page.locator("dialog").count(), 1);
    await page.fill("#key", given.key);
    await page.keyboard.press("Enter");
    await ready(page);
    await page.waitForSelector("#grid img[src^=blob]");
    assert.equal(dialogs, 2);
    await page.reload();
    await ready(page);
    assert.equal(dialogs, 2);
    const kept = await page.evaluate(() => [Object.values(sessionStorage), Object.values(localStorage), document.cookie]);
    assert.deepEqual(kept, [[given.key], [], ""]);
    await page.locator("aside summary").click();
    await page.locator("#sending").click();
    await page.locator("#recommended .pick").first().click();
    await page.waitForSelector(".toast.error");
    assert.match(await page.innerText(".toast.error"), /Clicks are not sent: the key 'page' may read; this needs one that may write\./);
    assert.equal(await page.locator("#sending").isChecked(), false);
    const other = await context.newPage();
    await other.goto(given.locked);
    await other.waitForSelector("dialog[open]");
  },

  async what_comes_from_outside_is_text(page) {
    await withChat(page, (route) => route.fulfill(stream(["text", { text: HOSTILE }], ["list", { items: [{ item: "5", title: HOSTILE, reason: HOSTILE }] }])));
    await go(page);
    const hostile = "39";
    await page.fill("#search", HOSTILE);
    await seen(page, (item) => document.querySelector("#grid .card")?.dataset.item === item, hostile);
    assert.equal(await page.locator("#grid .title").first().innerText(), HOSTILE);
    await page.locator("#grid .to-basket").first().click();
    await pick(page, hostile);
    await settled(page, 1);
    assert.equal(await page.locator("#history .chip span").first().innerText(), HOSTILE);
    await page.click("#tab-basket");
    assert.equal(await page.locator("#in-basket .title").innerText(), HOSTILE);
    await page.click("#tab-chat");
    await page.fill("#say", HOSTILE);
    await page.keyboard.press("Enter");
    await page.waitForSelector(".theirs .why");
    assert.equal(await page.locator("img[src=x], [onerror]").count(), 0);
    const tried = await page.evaluate(() => {
      const script = document.createElement("script");
      const ways = [() => { script.textContent = "1"; }, () => { document.body.innerHTML = "<b>1</b>"; }, () => script.setAttribute("src", "/static/main.js")];
      return ways.map((way) => { try { way(); return "done"; } catch (error) { return error.name; } });
    });
    assert.deepEqual(tried, ["TypeError", "TypeError", "TypeError"]);
  },

  async a_chat_streams_its_answer_and_ends_with_a_list(page) {
    const asked = [];
    await withChat(page, (route) => {
      asked.push(route.request().postDataJSON());
      return route.fulfill(asked.length < 3 ? stream(["text", { text: "You may " }], ["text", { text: "like these." }], ["list", { items: [{ item: "2", title: "item 2 of group 2", reason: "it is of group 2" }] }])
        : { status: 422, contentType: "application/problem+json", body: '{"detail": "say less."}' });
    });
    await go(page, "#chat");
    for (const [n, text] of ["a gift", "cheaper"].entries()) {
      await page.fill("#say", text);
      await page.click("#ask");
      await seen(page, (n) => document.querySelectorAll("#talk .theirs .why").length === n + 1, n);
    }
    assert.deepEqual(await texts(page, "#talk .theirs > p"), ["You may like these.", "You may like these."]);
    assert.match(await page.innerText("#talk"), /it is of group 2/);
    assert.deepEqual(asked[1], { messages: [{ role: "user", text: "a gift" }, { role: "assistant", text: "You may like these." }, { role: "user", text: "cheaper" }], model: "itemknn" });
    await page.fill("#say", "x");
    await page.click("#ask");
    await page.waitForSelector(".toast.error");
    assert.match(await page.innerText(".toast.error"), /say less\./);
  },

  async there_is_no_chat_where_no_model_can(page) {
    await go(page);
    assert.equal(await page.locator("#tab-chat").isVisible(), false);
  },

  async everything_can_be_done_with_the_keyboard(page) {
    await go(page);
    const press = (...keys) => keys.reduce((before, key) => before.then(() => page.keyboard.press(key)), Promise.resolve());
    const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.className || document.activeElement.tagName);
    await press("Tab");
    assert.equal(await focused(), "skip");
    await press("Tab");
    assert.equal(await focused(), "tab-browse");
    await press("ArrowRight", "ArrowRight");
    assert.equal(await focused(), "tab-models");
    await press("End", "ArrowRight");
    assert.equal(await focused(), "tab-browse");
    await press("/");
    assert.equal(await focused(), "search");
    await page.locator("#grid .pick").first().focus();
    await press("Enter");
    await settled(page, 1);
    assert.equal(await focused(), "pick");
    await press("Tab", "Space");
    assert.equal(await page.innerText("#basket-count"), "1");
    await page.locator("#recommended .pick").first().focus();
    await press("Enter");
    await settled(page, 2);
    assert.equal(await page.evaluate(() => document.activeElement.closest("#recommended") !== null), true);
    await page.locator("#history .chip").first().focus();
    await press("Enter");
    await settled(page, 1);
    assert.equal(await focused(), "chip");
    const rings = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    assert.equal(rings, "solid");
  },

  async a_phone_shows_all_of_it_without_scrolling_sideways(page) {
    await page.setViewportSize({ width: 375, height: 740 });
    await withChat(page, (route) => route.abort());
    await go(page);
    await pick(page, "2");
    await settled(page, 1);
    await page.locator("#grid .to-basket").first().click();
    await page.click("#more-filters");
    for (const tab of TABS) {
      await page.click(`#tab-${tab}`);
      await page.waitForTimeout(150);
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 375, tab);
    }
    const small = await page.locator("button:visible").evaluateAll((all) => all.filter((one) => one.getBoundingClientRect().height < 20).map((one) => one.textContent));
    assert.deepEqual(small, []);
  },

  async nobody_answering_is_said(page) {
    await page.route("**/v1/ready", (route) => route.abort());
    await page.goto(given.open);
    await page.waitForSelector("#browse .empty");
    assert.match(await page.innerText("#browse"), /Nobody answers/);
    assert.match(await page.innerText(".toast.error"), /The service does not answer\. Is it running\?/);
  },

  async an_error_is_told_in_the_words_of_the_service(page) {
    await go(page);
    await page.route("**/v1/recommend", (route) => route.fulfill({ status: 503, contentType: "application/problem+json", body: '{"detail": "it took longer than 10 s. Send less, or try again later."}' }));
    await pick(page, "2");
    await page.waitForSelector(".toast.error");
    assert.match(await page.innerText(".toast.error"), /it took longer than 10 s\./);
    await page.getByRole("button", { name: "Dismiss" }).click();
    assert.equal(await page.locator(".toast").count(), 0);
  },
};

for (const scheme of ["light", "dark"]) {
  flows[`nothing_is_amiss_for_axe_in_the_${scheme}`] = async (page) => {
    await page.emulateMedia({ colorScheme: scheme, reducedMotion: "reduce" });
    await withChat(page, (route) => route.fulfill(stream(["text", { text: "These." }], ["list", { items: [{ item: "2", title: "item 2", reason: "it is like it" }] }])));
    await go(page);
    await pick(page, "2");
    await settled(page, 1);
    await page.locator("#grid .to-basket").first().click();
    await page.click("#more-filters");
    await page.evaluate(AXE);
    for (const tab of TABS) {
      await page.click(`#tab-${tab}`);
      if (tab === "chat") {
        await page.fill("#say", "a gift");
        await page.click("#ask");
        await page.waitForSelector(".theirs .why");
      }
      if (tab === "models") await page.waitForSelector("#models article");
      if (tab === "live") await page.waitForSelector("#live table");
      const found = await page.evaluate(() => window.axe.run({ resultTypes: ["violations"] }));
      assert.deepEqual(found.violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.target).join(" ")}`), [], tab);
    }
  };
}

const browser = await chromium.launch({ executablePath: given.chromium, args: ["--no-sandbox"] });
const done = {};
for (const [name, flow] of Object.entries(flows)) {
  const context = await browser.newContext({ viewport: WIDE });
  context.setDefaultTimeout(5000);
  const page = await context.newPage(), wrong = [];
  page.on("pageerror", (error) => wrong.push(`the page failed: ${error.message}`));
  page.on("dialog", (dialog) => { wrong.push(`the page asked: ${dialog.message()}`); dialog.dismiss(); });
  const start = Date.now();
  try {
    await flow(page, context);
    done[name] = wrong.length ? wrong.join("\n") : null;
  } catch (error) {
    done[name] = [error.stack, ...wrong].join("\n");
    if (given.pictures) await page.screenshot({ path: `${given.pictures}/${name}.png` });
  }
  process.stderr.write(`${name} ${Date.now() - start} ms\n`);
  await context.close();
}
await browser.close();
process.stdout.write(JSON.stringify(done));
