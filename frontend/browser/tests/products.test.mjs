// Pages of products, on their own origin.
import assert from "node:assert/strict";
import { after } from "node:test";
import { closed, decide, newContext, windowOf } from "../lib/browser.mjs";
import { host } from "../lib/host.mjs";
import { ISOLATED, OPENER, ORIGINAL_FRONTEND, SILENT } from "../lib/pages.mjs";
import { eventually } from "../lib/sandbox.mjs";
import { house } from "../lib/setup.mjs";

let product;
const { test } = house(async () => {
  product = await host({ "/isolated": ISOLATED, "/original": ORIGINAL_FRONTEND, "/opener": OPENER, "/silent": SILENT });
  return { origins: [product.origin] };
});
after(() => product?.stop());

/** A product's page in a window of its own, for this user. */
async function productPage({ browser, sandbox, user }, path, run) {
  const context = await newContext(browser);
  try {
    const page = await context.newPage();
    const query = new URLSearchParams({ api: sandbox.url, token: await sandbox.token(user) });
    await page.goto(`${product.origin}${path}?${query}`);
    await run(context, page);
  } finally {
    await context.close();
  }
}

test("product page: connects with Cross-Origin-Opener-Policy: same-origin", async (given) => {
  await productPage(given, "/isolated", async (context, page) => {
    const popup = await windowOf(context, () => page.getByRole("button").click());
    await popup.getByRole("button", { name: "Allow" }).waitFor();
    assert.equal(await popup.evaluate(() => window.opener), null, "the policy has cut the window off");
    await page.getByText("waiting").waitFor();
    await decide(popup, "Allow", "Grace Hopper");
    await page.getByText("connected", { exact: false }).waitFor();
    const { connections } = await given.sandbox.api(given.user, "/connections");
    assert.equal(connections[0].status, "connected");
  });
});

test("original frontend: connects and reports a denial unmodified", async (given) => {
  await productPage(given, "/original", async (context, page) => {
    await page.getByText("Gmail: not connected").waitFor();
    const denied = await windowOf(context, () => page.getByRole("button").click());
    await decide(denied, "Deny");
    // Nango's page stays open to say what went wrong; its user closes it.
    await denied.getByText("Connection failed").waitFor();
    // This client polls once, when the window is closed. By the time a user has read the page, Nango has sent the webhook.
    await eventually("the denial is known", async () => {
      const { connections } = await given.sandbox.api(given.user, "/connections");
      return connections[0]?.status === "error";
    });
    await denied.close();
    await page.getByText("Gmail: error").waitFor();
    const popup = await windowOf(context, () => page.getByRole("button").click());
    await decide(popup, "Allow", "Ada Lovelace (work)");
    await closed(popup);
    await page.getByText("Gmail: connected").waitFor();
  });
});

test("console: receives the token from the product's window", async (given) => {
  await productPage(given, "/opener", async (context, page) => {
    await inProduction(context, product.origin);
    const console_ = await windowOf(context, () => page.getByRole("button").click());
    await console_.getByRole("heading", { name: "Catalog" }).waitFor();
    await console_.getByRole("link", { name: "Connections" }).click();
    await console_.getByText("Nothing is connected yet").waitFor();
    assert.equal(await console_.getByRole("button", { name: "Sandbox controls" }).count(), 0);
  });
});

test("console: accepts a pasted token when the product's window does not answer", async (given) => {
  await productPage(given, "/silent", async (context, page) => {
    await inProduction(context, product.origin);
    const console_ = await windowOf(context, () => page.getByRole("button").click());
    await console_.getByText("Waiting for your product to sign you in…").waitFor();
    assert.equal(await console_.getByLabel("Token").count(), 0);
    await console_.getByText("Your product did not answer. Close this window and open it from there again.").waitFor();
    await console_.getByText("CORS_ALLOWED_ORIGINS").waitFor();
    await console_.getByLabel("Token").fill(await given.sandbox.token(given.user));
    await console_.getByRole("button", { name: "Sign in" }).click();
    await console_.getByRole("heading", { name: "Catalog" }).waitFor();
  });
});

test("late_token_of_the_opener_signs_in", async (given) => {
  await productPage(given, "/silent", async (context, page) => {
    await inProduction(context, product.origin);
    const console_ = await windowOf(context, () => page.getByRole("button").click());
    await console_.getByText("Your product did not answer.").waitFor();
    await page.evaluate((token) => window.hand(token), await given.sandbox.token(given.user));
    await console_.getByRole("heading", { name: "Catalog" }).waitFor();
  });
});

test("sign_in_again_asks_the_opener_and_bears_its_silence", async (given) => {
  await productPage(given, "/silent", async (context, page) => {
    await inProduction(context, product.origin);
    await page.evaluate(() => (window.answer = "no.longer.good"));
    const console_ = await windowOf(context, () => page.getByRole("button").click());
    await console_.getByText("Your session has ended", { exact: true }).waitFor();
    assert.ok((await page.evaluate(() => window.asked)).includes(true), "a fresh token was asked for");
    await page.evaluate(() => (window.answer = null));
    await console_.getByRole("button", { name: "Sign in again" }).click();
    await console_.getByText("Waiting for your product to sign you in…").waitFor();
    await console_.getByText("Your product did not answer.").waitFor();
    assert.equal(await console_.getByLabel("Token").count(), 0);
    const token = await given.sandbox.token(given.user);
    await page.evaluate((token) => (window.answer = token), token);
    await console_.getByRole("button", { name: "Sign in again" }).click();
    await console_.getByText("99 connectors").waitFor();
    await console_.getByText("Your session has ended", { exact: true }).waitFor({ state: "detached" });
  });
});

test("token_of_another_user_restarts_the_console", async (given) => {
  const { sandbox, user } = given;
  const other = `${user}-other`;
  await sandbox.faults({ consent: "allow" });
  const { oauth_url } = await sandbox.api(user, "/gmail/connect", "POST");
  await fetch(oauth_url, { headers: { accept: "text/html" } });
  await productPage(given, "/silent", async (context, page) => {
    await inProduction(context, product.origin);
    await page.evaluate((token) => (window.answer = token), await sandbox.token(user));
    const console_ = await windowOf(context, () => page.getByRole("button").click());
    await console_.getByRole("link", { name: "Connections" }).first().click();
    await console_.getByRole("list", { name: "Connected" }).getByRole("listitem").waitFor();
    await page.evaluate((token) => window.hand(token), await sandbox.token(other));
    await console_.getByRole("button", { name: `Sign out ${other}` }).waitFor();
    await console_.getByText("Nothing is connected yet").waitFor();
    assert.equal(await console_.getByText("Ada Lovelace").count(), 0);
  });
});

test("console: signs in with a pasted token and signs out", async ({ browser, sandbox, user }) => {
  const context = await newContext(browser);
  try {
    await inProduction(context, product.origin);
    const page = await context.newPage();
    await page.goto(`${sandbox.url}/console/`);
    await page.getByLabel("Token").fill("not a token");
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByText("Your session has ended", { exact: true }).waitFor();
    await page.getByRole("button", { name: "Sign in again" }).click();
    await page.getByLabel("Token").fill(await sandbox.token(user));
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByText("99 connectors").waitFor();
    await page.reload();
    await page.getByText("99 connectors").waitFor();
    await page.getByRole("button", { name: `Sign out ${user}` }).click();
    await page.getByLabel("Token").waitFor();
    assert.equal(await page.evaluate(() => sessionStorage.getItem("patchbay:console:token")), null);
  } finally {
    await context.close();
  }
});

/** Serves the console the configuration that it has in production, without the sandbox's controls. */
async function inProduction(context, origin) {
  await context.route("**/console/config.json", (route) => route.fulfill({ json: { controls: null, origins: [origin] } }));
}
