// No hammering, and always a way out: how often is asked while something fails, and how it ends.
import assert from "node:assert/strict";
import { decide, newContext, windowOf } from "../lib/browser.mjs";
import { connected, failingHouse, isCatalog, isList, isStream, sleep } from "../lib/failing.mjs";
import { gateway, otherJson, problem } from "../lib/proxy.mjs";
import { eventually } from "../lib/sandbox.mjs";

const test = failingHouse(60);

/** What may fail, and how. */
const FAILURES = {
  "nothing fails": () => "pass",
  "no answer at all": ({ isApi }) => (isApi ? "cut" : "pass"),
  "a gateway's 502 to everything": ({ isApi }) => (isApi ? gateway(502) : "pass"),
  "the service starts (503)": ({ isApi }) => (isApi ? problem(503, "starting", { "retry-after": "1" }) : "pass"),
  "too many requests (429)": ({ isApi }) => (isApi ? problem(429, "rate_limited", { "retry-after": "2" }) : "pass"),
  "a gateway's 401 to everything": ({ isApi }) => (isApi ? gateway(401) : "pass"),
  "the session has ended (401)": ({ isApi }) => (isApi ? problem(401, "unauthenticated") : "pass"),
  "other JSON to everything": ({ isApi }) => (isApi ? otherJson : "pass"),
  "the list of connections": (one) => (isList(one) ? gateway(502) : "pass"),
  "the catalog": (one) => (isCatalog(one) ? gateway(502) : "pass"),
  "the event stream": (one) => (isStream(one) ? gateway(502) : "pass"),
  "the event stream, held back by a proxy": (one) => (isStream(one) ? "hang" : "pass"),
  "the event stream, which ends at once": (one) => (isStream(one) ? "cut" : "pass"),
};

/**
 * The most requests that a page makes in its first minute, whatever fails, without logos, which the browser caches. About 45 with
 * the longest random backoffs, twice if each is repeated: by Chromium after a cut, or with a renewed token. Later minutes have fewer.
 */
const MOST = 120;

test("requests_in_a_minute_are_few_whatever_fails", async (given) => {
  const minutes = [];
  // One page after another, each with a minute of its own: a slow machine cannot open all of them at the same time.
  for (const [what, fate] of Object.entries(FAILURES)) {
    for (const where of [{ path: "" }, { views: "manager,catalog,button" }]) {
      const { proxy } = await given.behind({ ...where, fate });
      const requests = () => proxy.seen.filter(({ path }) => !path.endsWith("/logo")).length;
      minutes.push(sleep(60_000).then(() => [what, requests()]));
    }
  }
  const counts = await Promise.all(minutes);
  const rows = Object.keys(FAILURES).map((what) => [what, ...counts.filter(([of]) => of === what).map(([, count]) => count)]);
  console.log("| What fails | Console | Package |\n|---|---|---|");
  for (const row of rows) console.log(`| ${row.join(" | ")} |`);
  for (const [what, ...counts] of rows) for (const count of counts) assert.ok(count <= MOST, `${what}: ${count} requests`);
});

test("refused_second_page_of_catalog_is_no_loop", async (given) => {
  let pages = 0;
  const { page, proxy } = await given.behind({
    path: "",
    fate: ({ path }) => {
      if (!path.startsWith("?")) return "pass";
      if (path.includes("cursor")) return problem(429, "rate_limited", { "retry-after": "1" });
      pages += 1;
      return { status: 200, type: "application/json", body: JSON.stringify(FIRST_PAGE) };
    },
  });
  await page.getByText("The catalog cannot be shown").waitFor();
  await page.getByText("That was too often. Wait a minute.").waitFor();
  const before = proxy.seen.length;
  await sleep(6_000);
  assert.ok(proxy.seen.length - before <= 10, `${proxy.seen.length - before} requests in 6 s`);
  assert.ok(pages > 0);
  proxy.fate = () => "pass";
  await page.getByText("99 connectors").waitFor({ state: "attached" });
});

const FIRST_PAGE = { connectors: [], categories: [], total_count: 300, next_cursor: "gmail" };

/** How often ten connections change. */
const ROUNDS = 30;

for (const [kind, where] of [["console", { path: "connectors/gmail" }], ["package", { views: "manager" }]]) {
  test(`many_changes_are_fetched_by_one_tab_for_all (${kind})`, async (given) => {
    const { sandbox, user } = given;
    const ids = [];
    for (let number = 0; number < 10; number += 1) ids.push(await connected(given, "gmail", String(number)));
    const { context, page, proxy } = await given.behind(where);
    const others = [];
    // Over HTTP/1.1 a browser has six connections to an origin, in all its tabs.
    for (let tab = 0; tab < 7; tab += 1) others.push(await context.newPage());
    for (const other of others) await other.goto(page.url());
    for (const tab of [page, ...others]) await tab.getByRole("listitem").nth(9).waitFor();
    assert.equal(proxy.streams, 1);
    const headers = { authorization: `Bearer ${await sandbox.token(user)}`, "content-type": "application/json" };
    const change = (id, label) =>
      fetch(`${sandbox.url}/api/v1/connectors/connections/${id}`, { method: "PATCH", headers, body: JSON.stringify({ label }) });
    const [before, began] = [proxy.seen.length, performance.now()];
    for (let round = 0; round < ROUNDS; round += 1) {
      // However slow the machine is, the ten changes reach the page together.
      await proxy.holdingStreams(() => Promise.all(ids.map((id) => change(id, `name ${round}`))));
      await sleep(150);
    }
    for (const tab of [page, ...others]) await tab.getByText(`name ${ROUNDS - 1}`).nth(9).waitFor();
    const seconds = (performance.now() - began) / 1_000;
    const requests = proxy.seen.slice(before);
    const counts = {};
    for (const { method, path } of requests) {
      const what = `${method} ${path.replace(/[\da-f-]{36}/, "id")}`;
      counts[what] = (counts[what] ?? 0) + 1;
    }
    console.log(`300 changes with eight tabs of the ${kind}: ${requests.length} requests in ${seconds.toFixed(1)} s: ${JSON.stringify(counts)}`);
    const lists = requests.filter(isList).length;
    // All tabs together fetch the list once for each round at the most, and once a second; the round's first change may be fetched alone before.
    assert.ok(lists <= Math.min(ROUNDS, seconds) + 3, `${lists} lists`);
    assert.ok(requests.length <= 2 * lists + 3, `${requests.length} requests, of which ${lists} lists`);
  });
}

for (const [kind, where] of [["console", { path: "connectors/gmail" }], ["package", { views: "manager" }]]) {
  test(`change_shows_within_seconds_while_the_stream_is_held_back (${kind})`, async (given) => {
    const id = await connected(given);
    const { page } = await given.behind({ ...where, fate: (one) => (isStream(one) ? "hang" : "pass") });
    await page.getByText("Connected", { exact: true }).first().waitFor();
    await sleep(5_000);
    await given.sandbox.api(given.user, `/gmail/disconnect?connection_id=${id}`, "DELETE");
    await page.getByText("Connected", { exact: true }).first().waitFor({ state: "hidden", timeout: 12_000 });
  });
}

for (const [kind, where] of [["console", { path: "" }], ["package", { views: "catalog" }]]) {
  test(`catalog_comes_back_after_outage_at_load (${kind})`, async (given) => {
    const { page, proxy } = await given.behind({ ...where, fate: ({ isApi }) => (isApi ? gateway(502) : "pass") });
    await page.getByText("The server's answer is not the expected one.").first().waitFor();
    proxy.fate = () => "pass";
    await page.getByText("99 connectors").first().waitFor({ state: "attached" });
    await page.getByRole("button", { name: /^Connect / }).first().waitFor({ state: "attached" });
  });
}

for (const [kind, where] of [["console", { path: "connectors/gmail" }], ["package", { views: "button" }]]) {
  const connect = (page) => page.getByRole("button", { name: "Connect Gmail" });

  test(`connect_during_restart_goes_on (${kind})`, async (given) => {
    const { context, page, proxy } = await given.behind(where);
    await connect(page).waitFor();
    const end = performance.now() + 3_000;
    const restarting = ({ isApi }) => isApi && performance.now() < end;
    proxy.fate = (one) => (restarting(one) ? problem(503, "starting", { "retry-after": "1" }) : "pass");
    const popup = await windowOf(context, () => connect(page).click());
    await decide(popup, "Allow", "Grace Hopper");
    await page.getByText(/^(Connected|Gmail connected)$/).first().waitFor();
    assert.equal(new Set(proxy.seen.filter(({ method }) => method === "POST").map(({ key }) => key)).size, 1);
  });

  test(`starting_can_be_canceled_and_notices_its_window (${kind})`, async (given) => {
    const { context, page, proxy } = await given.behind(where);
    await connect(page).waitFor();
    proxy.fate = ({ method }) => (method === "POST" ? "hang" : "pass");
    const popup = await windowOf(context, () => connect(page).click());
    await popup.close();
    await page.getByText(/[Tt]he window (was|is) closed/).first().waitFor();
    const again = await windowOf(context, () => page.getByRole("button", { name: "Open it again" }).click());
    await page.getByRole("button", { name: "Cancel" }).first().click();
    await eventually("the window is closed", () => again.isClosed());
    await connect(page).waitFor();
    assert.equal(await page.getByText("Starting…").count(), 0);
  });

  test(`reload_before_the_answer_leaves_no_window (${kind})`, async (given) => {
    const { context, page, proxy } = await given.behind(where);
    await connect(page).waitFor();
    proxy.fate = ({ method }) => (method === "POST" ? { late: 3_000 } : "pass");
    const popup = await windowOf(context, () => connect(page).click());
    await eventually("the click has arrived", () => proxy.count("POST") === 1);
    await page.reload();
    await eventually("the empty window is closed", () => popup.isClosed());
    proxy.fate = () => "pass";
    const again = await windowOf(context, () => page.getByRole("button", { name: "Open it again" }).first().click());
    await decide(again, "Allow", "Grace Hopper");
    await page.getByText(/^(Connected|Gmail connected)$/).first().waitFor();
    const keys = new Set(proxy.seen.filter(({ method }) => method === "POST").map(({ key }) => key));
    assert.equal(keys.size, 1);
  });

  test(`reason_shown_while_waiting_holds (${kind})`, async (given) => {
    const { context, page, proxy } = await given.behind(where);
    await windowOf(context, () => connect(page).click());
    await eventually("it waits", () => proxy.count("GET /connections/") > 1);
    for (const [fate, text] of [
      [problem(429, "rate_limited"), "That was too often. Wait a minute. Trying again."],
      [gateway(403), "The server's answer is not the expected one. Trying again."],
      ["cut", "The server could not be reached. Trying again."],
      [problem(401, "unauthenticated"), "Your session has ended. Sign in again."],
    ]) {
      proxy.fate = ({ isApi }) => (isApi ? fate : "pass");
      proxy.cutStreams();
      await page.getByText(text).first().waitFor();
    }
  });
}

test("token_that_never_comes_is_said", async (given) => {
  const never = "Object.defineProperty(window, 'getToken', { get: () => () => new Promise(() => {}), set: () => {} })";
  const { page } = await given.behind({ views: "manager,button", before: never });
  await page.getByText("Your sign-in could not be renewed.").first().waitFor();
});

test("grant_during_outage_shows_soon_after", async (given) => {
  const { context, page, proxy } = await given.behind({ views: "button" });
  const popup = await windowOf(context, () => page.getByRole("button", { name: "Connect Gmail" }).click());
  await popup.getByRole("button", { name: "Allow" }).waitFor();
  proxy.fate = ({ isApi }) => (isApi ? "cut" : "pass");
  proxy.cutStreams();
  await decide(popup, "Allow", "Grace Hopper");
  await sleep(5_000);
  proxy.fate = () => "pass";
  await page.getByRole("button", { name: "Gmail connected" }).waitFor();
});

const LAZY_PARTS = { steps: "engine", steps_and_messages: "{engine,button-parts}" };

for (const [what, parts] of Object.entries(LAZY_PARTS)) test(`${what}_that_cannot_be_loaded_are_said_and_loaded_again`, async (given) => {
  const context = await newContext(given.browser);
  await context.route(`**/assets/${parts}*`, (route) => route.abort());
  const { page } = await given.behind({ views: "button", context });
  const popup = await windowOf(context, () => page.getByRole("button", { name: "Connect Gmail" }).click());
  await page.getByText("The server could not be reached").waitFor();
  await eventually("the window is closed", () => popup.isClosed());
  await context.unroute(`**/assets/${parts}*`);
  const again = await windowOf(context, () => page.getByRole("button", { name: "Connect Gmail" }).click());
  await decide(again, "Allow", "Grace Hopper");
  await page.getByRole("button", { name: "Gmail connected" }).waitFor();
});

test("configuration_of_another_program_is_said_and_loaded_again", async (given) => {
  const answers = { html: { status: 200, type: "text/html", body: "<h1>Sign in to the network</h1>" }, json: otherJson, gateway: gateway(502) };
  for (const answer of Object.values(answers)) {
    const { page, proxy } = await given.behind({ path: "", fate: ({ path }) => (path.endsWith("/config.json") ? answer : "pass") });
    await page.getByText("The server's answer is not the expected one.").waitFor();
    proxy.fate = () => "pass";
    await page.getByText("99 connectors").waitFor({ state: "attached" });
  }
});
