// The windows that the console and a product's page open cannot reach their opener.
import assert from "node:assert/strict";
import { after } from "node:test";
import { closed, decide, newContext, windowOf } from "../lib/browser.mjs";
import { host } from "../lib/host.mjs";
import { PLAIN } from "../lib/pages.mjs";
import { connect, house } from "../lib/setup.mjs";

let product;
const { test } = house(async () => {
  product = await host({ "/plain": PLAIN });
  return { origins: [product.origin] };
});
after(() => product?.stop());

/** A provider's page that navigates the page that opened it, by every way that browsers have. */
const HOSTILE = `<!doctype html><title>Sign in</title><p>waiting</p><script>
const text = document.querySelector("p");
text.textContent = "opener: " + window.opener;
for (const reach of [() => window.opener, () => window.opener.top, () => window.opener.parent]) {
  try { reach().location = "https://evil.test/"; } catch {}
}
</script>`;

async function hostile(context) {
  await context.route("https://evil.test/**", (route) => route.fulfill({ body: "evil" }));
  await context.route("**/oauth/connect/**", (route) => route.fulfill({ contentType: "text/html", body: HOSTILE }));
}

async function stays(page, popup) {
  const before = page.url();
  await popup.getByText("opener: null").waitFor();
  // A round trip through the page's own event loop: a navigation would have started by then.
  await page.evaluate(() => new Promise((resolve) => setTimeout(resolve, 200)));
  assert.equal(page.url(), before);
}

test("provider_page_cannot_navigate_console", async ({ visit }) => {
  const { context, page } = await visit({ path: "connectors/gmail" });
  await hostile(context);
  const popup = await windowOf(context, () => page.getByRole("button", { name: "Connect Gmail" }).click());
  await stays(page, popup);
});

test("provider_page_cannot_navigate_console_by_link", async ({ visit }) => {
  const { context, page } = await visit({ path: "connectors/notion" });
  await hostile(context);
  // A click may open one window. Another script uses it up, so that Chromium blocks the console's.
  await page.evaluate(() => document.addEventListener("click", () => window.open("about:blank")?.close(), { capture: true, once: true }));
  await page.getByRole("button", { name: "Connect Notion" }).click();
  const popup = await windowOf(context, () => page.getByRole("link", { name: "Open the window" }).click());
  await stays(page, popup);
});

test("provider_page_cannot_navigate_product", async ({ browser, sandbox, user }) => {
  const context = await newContext(browser);
  try {
    const page = await context.newPage();
    const query = new URLSearchParams({ api: sandbox.url, token: await sandbox.token(user) });
    await page.goto(`${product.origin}/plain?${query}`);
    await hostile(context);
    const popup = await windowOf(context, () => page.getByRole("button").click());
    await stays(page, popup);
    // What the user does in a window without an opener counts.
    await context.unroute("**/oauth/connect/**");
    await popup.reload();
    await decide(popup, "Allow", "Grace Hopper");
    await closed(popup);
    await page.getByText("connected").waitFor();
  } finally {
    await context.close();
  }
});

test("shown_window_is_not_opened_twice", async ({ visit }) => {
  const { context, page } = await visit({ path: "connectors/github" });
  const popup = await windowOf(context, () => page.getByRole("button", { name: "Connect GitHub" }).click());
  await popup.getByRole("button", { name: "Allow" }).waitFor();
  await page.getByRole("button", { name: "Show it again" }).click();
  await decide(popup, "Allow", "Grace Hopper");
  await closed(popup);
  await page.getByText("Connected", { exact: true }).waitFor();
  assert.equal(context.pages().length, 1);
});

test("callback_page_closes_without_an_opener", async (given) => {
  const { sandbox, user } = given;
  const visitor = await given.visit({ path: "connectors/gmail" });
  await connect(visitor, "Grace Hopper");
  const [{ id }] = (await sandbox.api(user, "/connections")).connections;
  const { context, page } = visitor;
  const opens = page.evaluate((url) => {
    document.addEventListener("click", () => {
      const opened = window.open("");
      opened.opener = null;
      opened.location = url;
    }, { once: true });
  }, `${sandbox.url}/api/v1/connectors/callback?connection_id=${id}`);
  await opens;
  const popup = await windowOf(context, () => page.getByRole("heading", { level: 1 }).click());
  await closed(popup);
});
