// A grant belongs to the browser in which it was begun, as far as browsers keep the cookie that tells.
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

test("who began at a page of the same site is known when he comes back", async (given) => {
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

test("who is sent the popup's address is asked first, and what he does all the same is marked", async (given) => {
  const { context, popup } = await begin(given);
  const elsewhere = await newContext(given.browser);
  try {
    const forwarded = await elsewhere.newPage();
    await forwarded.goto(popup.url());
    await decide(forwarded, "Allow", "Ada Lovelace (work)");
    await forwarded.getByRole("heading", { name: "Not begun in this browser" }).waitFor();
    const before = await given.sandbox.api(given.user, "/connections");
    assert.equal(before.connections[0].status, "pending");
    await forwarded.getByRole("link", { name: "Then go on." }).click();
    await forwarded.waitForURL(/\/oauth\/callback/);
    const path = `/connections/${before.connections[0].id}?wait=25`;
    const { status, attempt } = await given.sandbox.api(given.user, path);
    assert.deepEqual([status, attempt.same_browser], ["connected", false]);
  } finally {
    await elsewhere.close();
    await context.close();
  }
});

test("the console's own page needs nothing for it", async ({ visit, sandbox, user }) => {
  const { context, page } = await visit({ path: "connectors/gmail" });
  const button = page.getByRole("button", { name: /^Connect (another account|\S+)$/ });
  const popup = await windowOf(context, () => button.click());
  await decide(popup, "Allow", "Grace Hopper");
  await closed(popup);
  await page.getByText("Connected", { exact: true }).first().waitFor();
  const { connections } = await sandbox.api(user, "/connections");
  assert.equal(connections[0].attempt.same_browser, true);
});
