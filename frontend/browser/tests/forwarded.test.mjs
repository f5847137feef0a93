// An authorization belongs to the browser that started it, if the browser stores the cookie that identifies it.
import assert from "node:assert/strict";
import { after } from "node:test";
import { closed, decide, newContext, windowOf } from "../lib/browser.mjs";
import { host } from "../lib/host.mjs";
import { BOUND } from "../lib/pages.mjs";
import { house } from "../lib/setup.mjs";

let product;
const { test } = house(async () => {
  product = await host({ "/bound": BOUND });
  return { origins: [product.origin], settings: { CONNECT_BINDING: "ask" } };
});
after(() => product?.stop());

/** The product's page in a browser of this user's, and the popup that it opens. */
async function begin({ browser, sandbox, user }) {
  const context = await newContext(browser);
  const page = await context.newPage();
  const query = new URLSearchParams({ api: sandbox.url, token: await sandbox.token(user) });
  await page.goto(`${product.origin}/bound?${query}`);
  const popup = await windowOf(context, () => page.getByRole("button").click());
  await popup.getByRole("button", { name: "Allow" }).waitFor();
  return { context, page, popup };
}

test("browser binding: recognizes the browser that started on a page of the same site", async (given) => {
  const { context, page, popup } = await begin(given);
  try {
    const cookies = await context.cookies(given.sandbox.url);
    const own = cookies.find((cookie) => cookie.name === "patchbay-browser");
    assert.deepEqual([own?.httpOnly, own?.sameSite], [true, "Lax"]);
    await decide(popup, "Allow", "Grace Hopper");
    await closed(popup);
    await page.getByText("connected").waitFor();
    const { connections } = await given.sandbox.api(given.user, "/connections");
    assert.equal(connections[0].attempt.same_browser, true);
  } finally {
    await context.close();
  }
});

/** Opens the popup's address in another user's browser, and grants access there. */
async function forward({ browser }, popup, account) {
  const elsewhere = await newContext(browser);
  const forwarded = await elsewhere.newPage();
  await forwarded.goto(popup.url());
  await decide(forwarded, "Allow", account);
  await forwarded.getByRole("heading", { name: "Started in another browser" }).waitFor();
  return { elsewhere, forwarded };
}

/** Continues on the page that asks for confirmation. */
async function goOn(forwarded) {
  await forwarded.getByRole("link", { name: "Continue here." }).click();
  await forwarded.waitForURL(/\/oauth\/callback/);
}

test("browser binding: asks the recipient of a forwarded link and marks the grant", async (given) => {
  const { context, popup } = await begin(given);
  const { elsewhere, forwarded } = await forward(given, popup, "Ada Lovelace (work)");
  try {
    const before = await given.sandbox.api(given.user, "/connections");
    assert.equal(before.connections[0].status, "pending");
    await goOn(forwarded);
    const path = `/connections/${before.connections[0].id}?wait=25`;
    const { status, attempt } = await given.sandbox.api(given.user, path);
    assert.deepEqual([status, attempt.same_browser], ["connected", false]);
  } finally {
    await elsewhere.close();
    await context.close();
  }
});

test("browser binding: works in the console without configuration", async ({ visit, sandbox, user }) => {
  const { context, page } = await visit({ path: "connectors/gmail" });
  const button = page.getByRole("button", { name: /^Connect (another account|\S+)$/ });
  const popup = await windowOf(context, () => button.click());
  await decide(popup, "Allow", "Grace Hopper");
  await closed(popup);
  await page.getByText("Connected", { exact: true }).first().waitFor();
  const { connections } = await sandbox.api(user, "/connections");
  assert.equal(connections[0].attempt.same_browser, true);
});

test("browser binding: console shows a grant from another browser until it is resolved", async (given) => {
  const { sandbox, user } = given;
  const { context, popup } = await begin(given);
  const { elsewhere, forwarded } = await forward(given, popup, "Ada Lovelace (work)");
  try {
    await goOn(forwarded);
    const { connections } = await sandbox.api(user, "/connections");
    const { page, context: console } = await given.visit({ path: `connections/${connections[0].id}` });
    await page.getByText("Granted in another browser").waitFor();
    const warning = page.getByText(/another browser than the one that asked for it\./);
    await warning.waitFor();
    // The provider's name of the account stands apart from the sentence.
    await warning.getByText("Ada Lovelace (work)").waitFor();
    // It was the user: granted here, it is like any other.
    const again = await windowOf(console, () => page.getByRole("button", { name: "It was me: reconnect here" }).click());
    await decide(again, "Allow", "Ada Lovelace (work)");
    await closed(again);
    await page.getByText("Granted in another browser").waitFor({ state: "hidden" });
    await page.getByText("Connected", { exact: true }).first().waitFor();
  } finally {
    await elsewhere.close();
    await context.close();
  }
});

test("browser binding: notice disconnects a foreign grant", async (given) => {
  const { sandbox, user } = given;
  const { context, popup } = await begin(given);
  const { elsewhere, forwarded } = await forward(given, popup, "Ada Lovelace (work)");
  try {
    await goOn(forwarded);
    const { page } = await given.visit({ path: "connections" });
    await page.getByRole("button", { name: "It was not me" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Disconnect" }).click();
    await page.getByText("Granted in another browser").waitFor({ state: "hidden" });
    const { connections } = await sandbox.api(user, "/connections");
    assert.equal(connections[0].status, "disconnected");
  } finally {
    await elsewhere.close();
    await context.close();
  }
});
