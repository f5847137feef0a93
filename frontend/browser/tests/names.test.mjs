// Names and errors of others, however long, and whatever they do to the text around them.
import assert from "node:assert/strict";
import { after } from "node:test";
import { productionPages } from "../lib/app.mjs";
import { newContext } from "../lib/browser.mjs";
import { host } from "../lib/host.mjs";
import { house } from "../lib/setup.mjs";

let product;
const { test } = house(async () => {
  product = await host(await productionPages());
  return { origins: [product.origin] };
});
after(() => product?.stop());

const WIDTHS = [320, 1280];
/** The end of an isolate that was not opened, and RIGHT-TO-LEFT OVERRIDE. */
const REVERSING = "\u2069\u202Egrace@example.com";
const LONG = "W".repeat(255);

/** Connections as the service would answer them with other names: `change` is made to each. */
async function renamed(context, change) {
  const answer = async (route) => {
    const answer = await route.fetch();
    const body = await answer.json();
    if (!answer.ok()) return route.fulfill({ response: answer, json: body });
    const { connections } = body;
    return route.fulfill({ response: answer, json: connections ? { ...body, connections: connections.map(change) } : change(body) });
  };
  // A request may be in flight when the test closes its context.
  await context.route(/\/connectors\/connections(\/[0-9a-f-]+)?(\?.*)?$/, (route) => answer(route).catch(() => {}));
}

async function connected({ sandbox, user }) {
  await sandbox.faults({ consent: "allow" });
  const { oauth_url, connection_id } = await sandbox.api(user, "/gmail/connect", "POST");
  await fetch(oauth_url, { headers: { accept: "text/html" } });
  await sandbox.api(user, `/connections/${connection_id}?wait=25`);
  return connection_id;
}

async function fits(page) {
  const [wide, room] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(wide <= room, `${page.url()} is ${wide} wide, in a window of ${room}`);
}

const account = (name) => (one) => ({ ...one, label: null, account: { id: "1", name } });
const labelled = (one) => ({ ...one, label: LONG, connector_name: LONG, account: { id: "1", name: LONG } });
const failed = (one) => ({ ...labelled(one), status: "error", status_reason: "authorization_failed", last_error: LONG });
const elsewhere = (one) => ({ ...account(REVERSING)(one), attempt: { ...one.attempt, same_browser: false } });
const mismatched = (one) => ({
  ...labelled(one), status: "error", status_reason: "account_mismatch", pending_account: { id: "2", name: LONG },
});

for (const width of WIDTHS) {
  for (const [what, change] of Object.entries({ labelled, failed, mismatched })) {
    test(`long_names_fit_console (${what}, ${width} px)`, async (given) => {
      const id = await connected(given);
      const { context, page } = await given.visit({ path: `connections/${id}`, viewport: { width, height: 800 } });
      await renamed(context, change);
      await page.reload();
      await page.getByRole("heading", { level: 1, name: LONG }).waitFor();
      await fits(page);
      await page.getByRole("button", { name: "Disconnect" }).first().click();
      await page.getByRole("dialog").waitFor();
      await fits(page);
      for (const path of ["connections", "connectors/gmail", ""]) {
        await page.goto(`${given.sandbox.url}/console/${path}`);
        await page.getByText(LONG).first().waitFor({ state: "attached" });
        await fits(page);
      }
    });

    test(`long_names_fit_package (${what}, ${width} px)`, async (given) => {
      await connected(given);
      const context = await newContext(given.browser, { viewport: { width, height: 800 } });
      try {
        await renamed(context, change);
        const page = await context.newPage();
        const query = new URLSearchParams({ api: given.sandbox.url, token: await given.sandbox.token(given.user), views: "manager,picker,button" });
        await page.goto(`${product.origin}/app?${query}`);
        await page.getByRole("listitem", { name: LONG }).waitFor();
        await page.getByRole("button", { name: "History" }).click();
        await page.getByRole("button", { name: "Rename" }).click();
        await fits(page);
        await page.getByRole("button", { name: "Disconnect" }).click();
        await fits(page);
      } finally {
        await context.close();
      }
    });
  }
}

/** The text as it is seen: its letters from left to right, line by line, without spaces, of which lines lose some. */
async function visually(locator) {
  return locator.evaluate((element) => {
    const letters = [];
    const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      for (let index = 0; index < node.length; index += 1) {
        const range = document.createRange();
        range.setStart(node, index);
        range.setEnd(node, index + 1);
        const { left, top, width } = range.getBoundingClientRect();
        if (width > 0) letters.push({ letter: node.data[index], left, line: Math.round(top / 8) });
      }
    }
    letters.sort((one, other) => one.line - other.line || one.left - other.left);
    return letters.map(({ letter }) => letter).join("").replace(/\s+/g, "");
  });
}

const WARNING = "Access was granted in another browser than the one that asked for it.";
const unspaced = (text) => text.replaceAll(" ", "");

test("hostile_account_name_leaves_warning_intact", async (given) => {
  const id = await connected(given);
  const { context, page } = await given.visit({ path: `connections/${id}` });
  await renamed(context, elsewhere);
  await page.reload();
  const notice = page.locator(".notice > div").filter({ hasText: "another browser" });
  await notice.waitFor();
  const seen = await visually(notice);
  assert.ok(seen.includes(unspaced(WARNING)), seen);
  assert.ok(seen.includes("grace@example.com"), seen);
  assert.match(await notice.locator(".account").innerText(), /^Account: /);
});

test("hostile_account_name_leaves_package_intact", async (given) => {
  await connected(given);
  const context = await newContext(given.browser);
  try {
    await renamed(context, elsewhere);
    const page = await context.newPage();
    const query = new URLSearchParams({ api: given.sandbox.url, token: await given.sandbox.token(given.user) });
    await page.goto(`${product.origin}/app?${query}`);
    const card = page.getByRole("listitem");
    await card.getByText(WARNING).waitFor();
    const seen = await visually(card);
    assert.ok(seen.includes(unspaced(WARNING)), seen);
    assert.ok(seen.includes("grace@example.com"), seen);
    await card.getByRole("button", { name: "Disconnect" }).click();
    const question = await visually(card.locator("[data-patchbay=question] strong"));
    assert.equal(question, "Disconnectgrace@example.com?");
  } finally {
    await context.close();
  }
});
