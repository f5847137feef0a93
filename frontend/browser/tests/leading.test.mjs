// What the console leads to: the form of parameters, cancel and remove, the next step of each card, and the address.
import assert from "node:assert/strict";
import { closed, decide, windowOf } from "../lib/browser.mjs";
import { connected } from "../lib/failing.mjs";
import { eventually } from "../lib/sandbox.mjs";
import { connect, house } from "../lib/setup.mjs";

const { test } = house();

const card = (page, name) => page.getByRole("listitem").filter({ has: page.getByRole("link", { name, exact: true }) });

async function fits(page) {
  const [wide, room] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(wide <= room, `${page.url()} is ${wide} wide, in a window of ${room}`);
}

test("parameters_are_asked_for_before_the_window_opens", async ({ visit, sandbox, user }) => {
  const { context, page } = await visit({ path: "connectors/zendesk" });
  await page.getByRole("button", { name: "Connect Zendesk" }).click();
  const dialog = page.getByRole("dialog", { name: "Connect Zendesk" });
  const field = dialog.getByLabel("Zendesk subdomain");
  await dialog.getByText("https://").waitFor();
  await dialog.getByText(".zendesk.com").waitFor();
  await dialog.getByText("Example: acme").waitFor();
  assert.equal(await field.evaluate((input) => document.activeElement === input), true);
  await dialog.getByRole("button", { name: "Connect Zendesk" }).click();
  await dialog.getByRole("alert").getByText("Enter the Zendesk subdomain.").waitFor();
  await field.fill("no good!");
  await page.keyboard.press("Enter");
  await dialog.getByText("is not in the right form").waitFor();
  assert.equal(context.pages().length, 1);

  // The service's own refusal stands at the field, too.
  const detail = '`parameters.subdomain` must match `^[a-z]+$`, as "acme" does.';
  await context.route("**/connectors/*/connect", (route) =>
    route.request().method() === "POST"
      ? route.fulfill({ status: 400, contentType: "application/problem+json", body: JSON.stringify({ code: "invalid_request", title: "", detail }) })
      : route.fallback(),
  );
  await field.fill("acme");
  await page.keyboard.press("Enter");
  await dialog.getByRole("alert").getByText("Zendesk subdomain must match").waitFor();
  assert.equal(await field.inputValue(), "acme");
  await context.unroute("**/connectors/*/connect");

  const popup = await windowOf(context, () => dialog.getByRole("button", { name: "Connect Zendesk" }).click());
  await decide(popup, "Allow", "Grace Hopper");
  await page.getByText("Connected", { exact: true }).waitFor();
  await closed(popup);
  const { connections } = await sandbox.api(user, "/connections");
  assert.equal(connections[0].connector_slug, "zendesk");
});

test("parameters_left_out_are_asked_for_on_the_page_in_the_window", async ({ sandbox, user, browser }) => {
  const started = await sandbox.api(user, "/zendesk/connect", "POST");
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.goto(started.oauth_url);
  await page.getByRole("textbox").first().waitFor();
  await context.close();
});

test("cancel_leaves_nothing_and_a_late_grant_is_deleted", async ({ visit, sandbox, user }) => {
  const { context, page } = await visit({ path: "connectors/gmail" });
  const popup = await windowOf(context, () => page.getByRole("button", { name: "Connect Gmail" }).click());
  await popup.getByRole("button", { name: "Allow" }).waitFor();
  await page.getByRole("button", { name: "Cancel" }).first().click();
  await page.getByText("No Gmail account yet").waitFor();
  await eventually("it is canceled", async () => (await sandbox.api(user, "/connections")).total_count === 0);
  await decide(popup, "Allow", "Grace Hopper");
  await eventually("nothing is left at Nango", async () => {
    const held = await sandbox.connections();
    return !held.some((one) => one.tags.end_user_id === user);
  });
  await page.reload();
  await page.getByText("No Gmail account yet").waitFor();
});

test("failed_first_connection_is_removed_and_never_disconnected", async ({ visit }) => {
  const { context, page } = await visit({ path: "connectors/github" });
  const popup = await windowOf(context, () => page.getByRole("button", { name: "Connect GitHub" }).click());
  await decide(popup, "Deny");
  await page.getByRole("button", { name: "Dismiss" }).click();
  await page.getByText("Denied", { exact: true }).waitFor();
  await page.getByRole("list", { name: "Your GitHub accounts" }).getByRole("link").click();
  await page.getByRole("heading", { name: "History" }).waitFor();
  assert.equal(await page.getByRole("button", { name: "Disconnect" }).count(), 0);
  await page.getByRole("region", { name: "What you can do" }).getByRole("button", { name: "Remove" }).click();
  await page.getByText("Removed", { exact: true }).waitFor();
  await page.getByText("Removed from the list").waitFor();
  assert.equal(await page.getByRole("button", { name: "Remove" }).count(), 0);
  await page.getByRole("link", { name: "Connections" }).first().click();
  await page.getByText("Nothing is connected yet").waitFor();
});

test("cards_lead_on_from_every_state", async (given) => {
  const { sandbox, user, visit } = given;
  await connected(given, "gmail");
  await connected(given, "github");
  // A second account that came to nothing does not change the first one's card.
  await sandbox.faults({ consent: "deny" });
  for (const path of ["/gmail/connect?instance_id=second", "/notion/connect"]) {
    const { oauth_url, connection_id } = await sandbox.api(user, path, "POST");
    await fetch(oauth_url, { headers: { accept: "text/html" } });
    await sandbox.api(user, `/connections/${connection_id}?wait=25`);
  }
  await sandbox.faults({});
  const { connections } = await sandbox.api(user, "/connections");
  const github = connections.find((one) => one.connector_slug === "github");
  await fetch(`${sandbox.controls}/sandbox/revoke`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ connection_id: github.nango_connection_id }),
  });
  await sandbox.api(user, `/connections/${github.id}/check`, "POST");
  const { context, page } = await visit();
  await card(page, "Gmail").getByText("Ada Lovelace (work)").waitFor();
  await card(page, "Gmail").getByRole("link", { name: "Manage Gmail" }).waitFor();
  await card(page, "Notion").getByText("Denied", { exact: true }).waitFor();
  await card(page, "Notion").getByText("Access was declined. Connect again, and allow access.").waitFor();
  await card(page, "Notion").getByRole("button", { name: "Connect Notion" }).waitFor();
  await card(page, "GitHub").getByText(/Access ended|Having trouble/).waitFor();
  const popup = await windowOf(context, () => card(page, "GitHub").getByRole("button", { name: "Reconnect GitHub" }).click());
  await decide(popup, "Allow", "Ada Lovelace (work)");
  await card(page, "GitHub").getByRole("link", { name: "Manage GitHub" }).waitFor();
});

test("search_and_category_are_in_the_address_and_back_works", async ({ visit }) => {
  const { page } = await visit();
  await page.getByRole("button", { name: "Connect Gmail" }).waitFor();
  await page.getByRole("searchbox").fill("mail");
  await page.getByText(/^\d+ connectors?$/).first().waitFor({ state: "attached" });
  const all = Number(await page.locator(".categories label").first().locator("span").textContent());
  assert.ok(all > 0 && all < 20, `the counts follow the search: ${all}`);
  assert.match(page.url(), /\?search=mail$/);
  const category = page.locator(".categories label").nth(1);
  const name = (await category.textContent()).replace(/\s*\d+$/, "").trim();
  await category.click();
  await page.waitForURL((url) => url.searchParams.get("category") === name);
  await page.reload();
  assert.equal(await page.getByRole("searchbox").inputValue(), "mail");
  assert.equal(await page.getByRole("radio", { name }).isChecked(), true);
  await page.locator(".card a").first().click();
  await page.getByRole("heading", { level: 1 }).waitFor();
  await page.goBack();
  await page.waitForURL((url) => url.searchParams.get("category") === name);
  assert.equal(await page.getByRole("searchbox").inputValue(), "mail");
  await page.goBack();
  await page.waitForURL((url) => !url.searchParams.has("category"));
  assert.equal(await page.getByRole("radio", { name: /^All/ }).isChecked(), true);
});

test("results_are_three_stops_from_the_search", async ({ visit }) => {
  const { page } = await visit();
  await page.getByRole("button", { name: "Connect Gmail" }).waitFor();
  await page.getByRole("searchbox").fill("gmail");
  await page.getByText("1 connector").waitFor({ state: "attached" });
  await page.getByRole("searchbox").focus();
  for (let stops = 0; stops < 2; stops += 1) await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement?.closest(".card") !== null), true);
});

test("duplicates_are_told_apart_and_marked", async (given) => {
  await connected(given, "gmail");
  await connected(given, "gmail", "second");
  const { page } = await given.visit({ path: "connections" });
  const rows = page.getByRole("list", { name: "Connected" }).getByRole("listitem");
  await rows.nth(1).waitFor();
  assert.equal(await rows.filter({ hasText: "connected more than once" }).count(), 2);
});

test("ids_are_copied", async (given) => {
  const id = await connected(given);
  const { context, page } = await given.visit({ path: `connections/${id}`, permissions: ["clipboard-read", "clipboard-write"] });
  await page.getByRole("button", { name: "Copy the connection id" }).click();
  await page.getByRole("button", { name: "Copied the connection id" }).waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), id);
  await context.close();
});

test("offline_pages_say_so_and_recover", async (given) => {
  const id = await connected(given);
  const { context, page } = await given.visit({ path: "" });
  await page.getByRole("link", { name: "Manage Gmail" }).waitFor();
  for (const path of ["", "connectors/gmail", "connections", `connections/${id}`]) {
    await page.goto(`${given.sandbox.url}/console/${path}`);
    await context.setOffline(false);
    await context.route("**/api/**", (route) => route.abort("internetdisconnected"));
    await page.reload();
    const alert = page.getByRole("alert").first();
    await alert.getByText("The server could not be reached.").waitFor();
    const retry = alert.getByRole("button", { name: "Try again" });
    await retry.click();
    await context.unroute("**/api/**");
    // The page retries by itself, too, and may be faster than the click.
    await retry.click({ timeout: 5000 }).catch(() => {});
    await page.getByText("Ada Lovelace (work)").first().waitFor();
    await page.waitForFunction(() => document.querySelectorAll(".bone").length === 0);
  }
});

for (const [what, viewport, zoom] of [
  ["320 px", { width: 320, height: 700 }, 1],
  ["1280 px", { width: 1280, height: 800 }, 1],
  ["200 %", { width: 640, height: 400 }, 2],
]) {
  test(`every_page_fits (${what})`, async (given) => {
    const id = await connected(given);
    await connected(given, "github");
    const { page } = await given.visit({ viewport, deviceScaleFactor: zoom });
    await page.getByRole("link", { name: "Manage Gmail" }).waitFor();
    await fits(page);
    for (const path of ["connectors/gmail", "connections", `connections/${id}`, "no/such/page", "connectors/zendesk"]) {
      await page.goto(`${given.sandbox.url}/console/${path}`);
      await page.getByRole("heading").first().waitFor();
      await fits(page);
    }
    await page.getByRole("button", { name: "Connect Zendesk" }).click();
    await page.getByRole("dialog").waitFor();
    await fits(page);
    await page.keyboard.press("Escape");
    await page.getByRole("button", { name: "Sandbox controls" }).click();
    await page.getByRole("heading", { name: "Scenarios" }).waitFor();
    await fits(page);
  });
}

for (const [scenario, seen] of [
  ["A webhook gets lost", "Connected"],
  ["The user denies access", "Denied"],
  ["The user cancels, and finishes after all", "Removed"],
  ["Access is revoked at the provider", /^(Access ended|Having trouble)$/],
  ["The provider fails for a while", "Connected"],
  ["Nango fails during a disconnect", "Disconnected"],
]) {
  test(`scenario_plays_whole_story (${scenario})`, async ({ visit, sandbox }) => {
    const { page } = await visit();
    await page.getByRole("button", { name: "Sandbox controls" }).click();
    await page.getByRole("button", { name: `Play “${scenario}”` }).click();
    await page.getByText(`Played: ${scenario}`).waitFor();
    await page.locator(".page-head .pill").getByText(seen, { exact: typeof seen === "string" }).waitFor();
    const faults = await (await fetch(`${sandbox.controls}/sandbox/faults`)).json();
    assert.deepEqual([faults.consent, faults.drop_webhooks, faults.refuse_refresh, faults.refuse_delete], ["ask", false, false, false]);
  });
}

test("history_says_what_happened", async (given) => {
  const visitor = await given.visit({ path: "connectors/gmail" });
  const { page } = visitor;
  await connect(visitor, "Grace Hopper");
  await page.getByRole("link", { name: "Grace Hopper" }).click();
  await page.getByLabel("What you call it").fill("Mine");
  await page.getByRole("button", { name: "Save" }).click();
  const renamed = page.locator(".history li").filter({ hasText: "Renamed" });
  await renamed.getByText("from no name to Mine").waitFor();
  await renamed.getByText("By you").waitFor();
  await renamed.getByText("Grace Hopper").waitFor();
  const time = page.locator(".history time").first();
  assert.match(await time.getAttribute("title"), /\d{4}/);
});
