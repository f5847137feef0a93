// No wrong state: what is shown is what the service has, whatever a proxy does on the way.
import assert from "node:assert/strict";
import { decide, windowOf } from "../lib/browser.mjs";
import { connected, failingHouse, isList, isStream, sleep } from "../lib/failing.mjs";
import { gateway, otherJson } from "../lib/proxy.mjs";
import { eventually } from "../lib/sandbox.mjs";

const test = failingHouse();
const KINDS = [
  ["console", { path: "connections" }],
  ["package", { views: "manager" }],
];

for (const [kind, where] of KINDS) {
  test(`late_list_does_not_revert_a_disconnect (${kind})`, async (given) => {
    const id = await connected(given);
    const { page, proxy } = await given.behind(where);
    await page.getByText("Connected", { exact: true }).first().waitFor();
    proxy.fate = (one) => (isList(one) ? { late: 2_500 } : "pass");
    proxy.cutStreams();
    await eventually("the list is on its way", () => proxy.seen.some((one) => isList(one) && one.at > performance.now() - 1_000));
    await given.sandbox.api(given.user, `/gmail/disconnect?connection_id=${id}`, "DELETE");
    await page.getByText("Disconnected (1)").waitFor();
    for (let looks = 0; looks < 40; looks += 1) {
      assert.equal(await page.getByText("Disconnected (1)").count(), 1);
      await sleep(100);
    }
  });

  test(`random_delays_orders_and_repetitions_end_in_the_truth (${kind})`, async (given) => {
    const seed = Number(process.env.SEED ?? Date.now() % 100_000);
    console.log(`SEED=${seed}`);
    const random = generator(seed);
    const { sandbox, user } = given;
    const { page, proxy, context } = await given.behind(where);
    const other = await context.newPage();
    await other.goto(page.url());
    proxy.fate = ({ method, isApi, path }) => {
      const dice = random();
      if (!isApi || method !== "GET" || path.startsWith("?")) return dice < 0.3 ? { late: random() * 300 } : "pass";
      if (dice < 0.15) return "stale";
      if (dice < 0.2) return "cut";
      if (dice < 0.25) return gateway(404);
      return dice < 0.7 ? { late: random() * 1_200 } : "pass";
    };
    for (let round = 0; round < 16; round += 1) {
      const { connections } = await sandbox.api(user, "/connections");
      const some = connections[Math.floor(random() * connections.length)];
      const dice = random();
      if (dice < 0.3 || !some) await connected(given, "gmail", `i${Math.floor(random() * 4)}`).catch(() => undefined);
      else if (dice < 0.55) await label(given, some.id, `name-${round}`);
      else if (dice < 0.75) await sandbox.api(user, `/gmail/disconnect?connection_id=${some.id}`, "DELETE");
      else await page.reload();
      if (random() < 0.3) proxy.cutStreams();
    }
    proxy.fate = () => "pass";
    const { connections } = await sandbox.api(user, "/connections?limit=500");
    const working = connections.filter(({ status }) => status === "connected");
    for (const shown of [page, other]) {
      await eventually("the page shows what the service has", async () => {
        const text = await shown.locator("main, [data-patchbay=manager]").first().innerText();
        const ended = connections.length - working.length;
        const names = connections.every(({ label, status }) => status !== "connected" || !label || text.includes(label));
        const count = await shown.getByText("Connected", { exact: true }).and(shown.locator(".pill, [data-patchbay=status-word]")).count();
        return names && count === working.length && (ended === 0 || text.includes(`Disconnected (${ended})`));
      });
    }
  });

  test(`other_json_is_said_and_recovers (${kind})`, async (given) => {
    await connected(given);
    const { page, proxy, broken } = await given.behind({ ...where, fate: ({ isApi }) => (isApi ? otherJson : "pass") });
    await page.getByText("The server's answer is not the expected one.").first().waitFor();
    proxy.fate = () => "pass";
    await page.getByText("Connected", { exact: true }).first().waitFor();
    assert.deepEqual(broken, []);
  });
}

async function label({ sandbox, user }, id, text) {
  const headers = { authorization: `Bearer ${await sandbox.token(user)}`, "content-type": "application/json" };
  await fetch(`${sandbox.url}/api/v1/connectors/connections/${id}`, { method: "PATCH", headers, body: JSON.stringify({ label: text }) });
}

/** Mulberry32: random numbers that a seed brings again. */
function generator(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

const CLICKS = [
  ["console", { path: "connectors/gmail" }, "Waiting for you"],
  ["package", { views: "button" }, "Finish in the other window."],
];

for (const [kind, where, waiting] of CLICKS) {
  for (const status of [404, 401]) {
    test(`gateway_${status}_keeps_attempt_and_session (${kind})`, async (given) => {
      const { context, page, proxy } = await given.behind(where);
      const popup = await windowOf(context, () => page.getByRole("button", { name: "Connect Gmail" }).click());
      await popup.getByRole("button", { name: "Allow" }).waitFor();
      await page.getByText(waiting).first().waitFor();
      proxy.fate = ({ isApi }) => (isApi ? gateway(status) : "pass");
      proxy.cutStreams();
      await page.getByText("The server's answer is not the expected one. Trying again.").first().waitFor();
      await sleep(3_000);
      assert.equal(popup.isClosed(), false);
      proxy.fate = () => "pass";
      await decide(popup, "Allow", "Grace Hopper");
      await page.getByText(/^(Connected|Gmail connected)$/).first().waitFor();
      assert.equal(await page.getByText(/session/).count(), 0);
    });
  }

  for (const hours of [1, -1]) {
    test(`wrong_clock_changes_nothing (${kind}, ${hours} h)`, async (given) => {
      const shift = `{
        const real = Date, ahead = ${hours * 3_600_000};
        globalThis.Date = class extends real {
          constructor(...given) { given.length ? super(...given) : super(real.now() + ahead); }
          static now() { return real.now() + ahead; }
        };
      }`;
      const { context, page } = await given.behind({ ...where, before: shift });
      const popup = await windowOf(context, () => page.getByRole("button", { name: "Connect Gmail" }).click());
      await popup.getByRole("button", { name: "Allow" }).waitFor();
      await page.reload();
      await page.getByText(/Waiting for you|Connecting Gmail…/).first().waitFor();
      await decide(popup, "Allow", "Grace Hopper");
      await page.getByText(/^(Connected|Gmail connected)$/).first().waitFor();
      if (kind === "console") await page.getByText("connected just now, not used yet").waitFor();
    });
  }
}

test("two_buttons_open_one_window", async (given) => {
  const { context, page } = await given.behind({ views: "button,button,manager" });
  const popup = await windowOf(context, () => page.getByRole("button", { name: "Connect Gmail" }).first().click());
  await popup.getByRole("button", { name: "Allow" }).waitFor();
  await page.getByRole("listitem").waitFor();
  assert.equal(await page.getByRole("button", { name: "Connecting Gmail…" }).count(), 3);
  for (const button of await page.getByRole("button", { name: "Connecting Gmail…" }).all()) await button.click({ force: true });
  assert.equal(context.pages().length, 2);
  await decide(popup, "Allow", "Grace Hopper");
  await page.getByRole("button", { name: "Gmail connected" }).nth(1).waitFor();
});

test("list_without_stream_stays_true", async (given) => {
  const { page } = await given.behind({ views: "manager", fate: (one) => (isStream(one) ? gateway(502) : "pass") });
  await page.getByText("Nothing is connected yet.").waitFor();
  await connected(given);
  await page.getByText("Connected", { exact: true }).waitFor();
});
