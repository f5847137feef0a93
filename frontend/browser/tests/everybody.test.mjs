// By keyboard alone, on a phone, and as assistive technology has it.
import assert from "node:assert/strict";
import { audit } from "../lib/axe.mjs";
import { closed, decide, newContext, windowOf } from "../lib/browser.mjs";
import { connect, house } from "../lib/setup.mjs";

const { test } = house();

test("phone viewport: opens a tab and clips nothing", async ({ visit }) => {
  const phone = { viewport: { width: 375, height: 720 }, hasTouch: true, isMobile: true };
  const { context, page } = await visit(phone);
  await fits(page);
  await page.getByRole("searchbox").fill("gmail");
  const popup = await windowOf(context, () => page.getByRole("button", { name: "Connect Gmail" }).tap());
  await popup.getByRole("button", { name: "Allow" }).waitFor();
  await fits(popup);
  await popup.getByRole("button", { name: "Allow" }).tap();
  await page.getByRole("listitem").filter({ hasText: "Gmail" }).getByText("Ada Lovelace (work)").waitFor();
  await closed(popup);
  for (const path of ["connectors/gmail", "connections"]) {
    await page.goto(new URL(`/console/${path}`, page.url()).href);
    await page.getByText("Connected", { exact: true }).first().waitFor();
    await fits(page);
  }
  await page.getByRole("link", { name: "Gmail" }).first().tap();
  await page.getByRole("heading", { name: "History" }).waitFor();
  await fits(page);
  await page.getByRole("button", { name: "Sandbox controls" }).tap();
  await page.getByRole("heading", { name: "Faults" }).waitFor();
  await fits(page);
});

/** No page is wider than its window. */
async function fits(page) {
  const [wide, room] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(wide <= room, `${page.url()} is ${wide} wide, in a window of ${room}`);
}

test("keyboard: finds, connects, renames and disconnects", async ({ visit }) => {
  const { context, page } = await visit();
  await page.getByRole("button", { name: "Connect Gmail" }).waitFor();
  await until(page, "Search the catalog");
  await page.keyboard.type("gmail");
  await page.getByText("1 connector").waitFor();
  await until(page, "Connect Gmail");
  const popup = await windowOf(context, () => page.keyboard.press("Enter"));
  await popup.getByRole("button", { name: "Allow" }).waitFor();
  await until(popup, "Ada Lovelace (work)");
  await popup.keyboard.press("ArrowDown");
  await until(popup, "Allow");
  await popup.keyboard.press("Enter");
  await closed(popup);
  await page.getByText("Ada Lovelace (private)").waitFor();

  await until(page, "Gmail");
  await page.keyboard.press("Enter");
  await until(page, "Ada Lovelace (private)");
  await page.keyboard.press("Enter");
  await until(page, "What you call it");
  await page.keyboard.type("Private mail");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { level: 1, name: "Private mail" }).waitFor();

  await until(page, "Disconnect");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  assert.equal(await focused(page), "Disconnect", "the focus is back where it was");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor();
  assert.equal(await focused(page), "Cancel", "the way out is offered first");
  await until(page, "Disconnect");
  await page.keyboard.press("Enter");
  await page.getByText("Disconnected", { exact: true }).first().waitFor();
});

/** The accessible name of what has the focus. */
function focused(page) {
  return page.evaluate(() => {
    const element = document.activeElement;
    const label = element?.labels?.[0]?.textContent;
    return (element?.getAttribute("aria-label") ?? label ?? element?.textContent ?? "").trim();
  });
}

/** Goes on with Tab until something of this name has the focus, which it shows. */
async function until(page, name) {
  for (let presses = 0; presses < 200; presses += 1) {
    await page.keyboard.press("Tab");
    if ((await focused(page)).startsWith(name)) {
      const shown = await page.evaluate(() => document.activeElement?.matches(":focus-visible"));
      assert.equal(shown, true, `${name} does not show its focus`);
      return;
    }
  }
  throw new Error(`${name} is not reached by Tab`);
}

for (const colorScheme of ["light", "dark"]) {
  test(`axe: reports no issues (${colorScheme})`, async ({ visit, browser, sandbox }) => {
    const visitor = await visit({ colorScheme });
    const { context, page } = visitor;
    const go = async (path) => {
      await page.goto(`${sandbox.url}/console/${path}`);
      await page.locator("main h1").first().waitFor({ state: "attached" });
    };
    await page.getByRole("button", { name: "Connect Gmail" }).waitFor();
    await audit(page, "the catalog");
    await page.getByRole("searchbox").fill("nothing of this name");
    await page.getByText("Nothing found").waitFor();
    await audit(page, "an empty search");

    await go("connectors/notion");
    const popup = await windowOf(context, () => page.getByRole("button", { name: "Connect Notion" }).click());
    await popup.getByRole("button", { name: "Allow" }).waitFor();
    await audit(popup, "the consent page");
    await page.getByText("Waiting for you").first().waitFor();
    await audit(page, "waiting");
    await decide(popup, "Deny");
    await page.getByText("access was declined", { exact: false }).waitFor();
    await audit(page, "a denial");

    await go("connectors/zendesk");
    await page.getByRole("button", { name: "Connect Zendesk" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Connect Zendesk" }).click();
    await page.getByText("Enter the Zendesk subdomain.").waitFor();
    await audit(page, "the form of parameters");

    await go("connectors/gmail");
    await audit(page, "a connector without accounts");
    await connect(visitor, "Grace Hopper");
    await page.getByRole("button", { name: "Sandbox controls" }).click();
    await page.getByRole("switch", { name: "Webhooks get lost" }).check();
    await page.getByRole("region", { name: "Faults in force" }).waitFor();
    await audit(page, "a connector and the sandbox's controls");
    await sandbox.faults({});
    await page.getByRole("button", { name: "Close the sandbox" }).click();

    await page.getByRole("link", { name: "Grace Hopper" }).click();
    await page.getByRole("heading", { name: "History" }).waitFor();
    await audit(page, "a connection");
    await page.getByRole("button", { name: "Disconnect" }).click();
    await audit(page, "the question before a disconnect");
    await go("connections");
    await page.getByRole("list", { name: "Needs attention" }).waitFor();
    await audit(page, "the connections");
    await go("no/such/page");
    await audit(page, "no page");

    await page.getByRole("button", { name: "Sandbox controls" }).click();
    await page.getByRole("button", { name: "Play “The user cancels, and finishes after all”" }).click();
    await page.getByText("Played: ").waitFor();
    await audit(page, "a removed connection and a scenario");

    await others(browser, sandbox, colorScheme);
  });

  test(`axe: reports no issues while the service fails (${colorScheme})`, async ({ visit, sandbox }) => {
    const { context, page } = await visit({ colorScheme });
    await page.getByRole("button", { name: "Connect Gmail" }).waitFor();
    await context.route("**/api/**", (route) => route.abort());
    for (const path of ["", "connections", "connectors/gmail", "connections/0198a000-0000-7000-8000-000000000000"]) {
      await page.goto(`${sandbox.url}/console/${path}`);
      await page.getByRole("alert").first().waitFor();
      await audit(page, `no answer: ${path}`);
    }
    await context.unroute("**/api/**");
    await context.route("**/sandbox/token", (route) => route.fulfill({ json: { token: "no.longer.good" } }));
    await page.reload();
    await page.getByText("Your session has ended", { exact: true }).waitFor();
    await audit(page, "an ended session");
    await context.route("**/console/config.json", (route) => route.abort());
    await page.reload();
    await page.getByRole("alert").waitFor();
    await audit(page, "no configuration");
  });
}

/** The pages beside the console: the sign-in, Nango's, and the service's own at the end of a popup. */
async function others(browser, sandbox, colorScheme) {
  const context = await newContext(browser, { colorScheme });
  try {
    await context.route("**/console/config.json", (route) => route.fulfill({ json: { controls: null, origins: [] } }));
    const page = await context.newPage();
    for (const [url, text] of [
      [`${sandbox.url}/console/`, "Token"],
      [sandbox.controls, "Patchbay sandbox"],
      [`${sandbox.controls}/connect-ui/`, "This link has expired"],
      [`${sandbox.controls}/oauth/callback`, "Connection failed"],
      [`${sandbox.url}/api/v1/connectors/callback?connection_id=nope`, "Connection not found"],
    ]) {
      await page.goto(url);
      await page.getByText(text).first().waitFor();
      await audit(page, url);
    }
  } finally {
    await context.close();
  }
}
