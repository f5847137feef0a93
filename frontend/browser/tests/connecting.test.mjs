// From the click to the end, whichever it is.
import assert from "node:assert/strict";
import { closed, decide, windowOf } from "../lib/browser.mjs";
import { eventually } from "../lib/sandbox.mjs";
import { connect, house } from "../lib/setup.mjs";

const { test } = house();

test("connect: opens a popup from the catalog and shows the account name", async ({ visit, sandbox, user }) => {
  const { context, page } = await visit();
  const card = page.getByRole("listitem").filter({ hasText: "Gmail" });
  const popup = await windowOf(context, () => card.getByRole("button", { name: "Connect Gmail" }).click());
  await decide(popup, "Allow", "Ada Lovelace (work)");
  await card.getByText("Ada Lovelace (work)").waitFor();
  await closed(popup);
  const { connections } = await sandbox.api(user, "/connections");
  assert.deepEqual(connections.map((one) => [one.connector_slug, one.status]), [["gmail", "connected"]]);
});

test("connect: reports a denial and retries with one click", async ({ visit }) => {
  const { context, page } = await visit({ path: "connectors/github" });
  const popup = await windowOf(context, () => page.getByRole("button", { name: "Connect GitHub" }).click());
  await decide(popup, "Deny");
  await page.getByText("access was declined", { exact: false }).waitFor();
  await page.getByText("Denied", { exact: true }).waitFor();
  const again = await windowOf(context, () => page.getByRole("button", { name: "Connect", exact: true }).click());
  await decide(again, "Allow", "Grace Hopper");
  await page.getByText("Connected", { exact: true }).waitFor();
  await page.getByRole("link", { name: "Grace Hopper" }).waitFor();
});

test("connect: offers to reopen a popup that was closed early", async ({ visit }) => {
  const { context, page } = await visit({ path: "connectors/dropbox" });
  const popup = await windowOf(context, () => page.getByRole("button", { name: "Connect Dropbox" }).click());
  await popup.getByRole("button", { name: "Allow" }).waitFor();
  await popup.close();
  const reopen = page.getByRole("button", { name: "Open it again" });
  const again = await windowOf(context, () => reopen.click());
  await decide(again, "Allow", "Alan Turing");
  await page.getByText("Connected", { exact: true }).waitFor();
});

test("connect: shows a link when the popup is blocked and keeps waiting", async ({ visit }) => {
  const { context, page } = await visit({ path: "connectors/notion" });
  // A click may open one window. Another script has used it up, so that Chromium blocks ours.
  await page.evaluate(() => document.addEventListener("click", () => window.open("about:blank")?.close(), { capture: true, once: true }));
  await page.getByRole("button", { name: "Connect Notion" }).click();
  await page.getByText("Your browser has blocked the window").waitFor();
  const popup = await windowOf(context, () => page.getByRole("link", { name: "Open the window" }).click());
  await decide(popup, "Allow", "Grace Hopper");
  await page.getByText("Connected", { exact: true }).waitFor();
});

test("connect: resumes after a page reload", async ({ visit }) => {
  const { context, page } = await visit({ path: "connectors/asana" });
  const popup = await windowOf(context, () => page.getByRole("button", { name: "Connect Asana" }).click());
  await popup.getByRole("button", { name: "Allow" }).waitFor();
  await page.reload();
  await page.getByText("Waiting for you").first().waitFor();
  await decide(popup, "Allow", "Ada Lovelace (private)");
  await page.getByText("Connected", { exact: true }).waitFor();
});

test("connect: reopens the popup for the same attempt after a reload", async ({ visit, sandbox, user }) => {
  const { context, page } = await visit({ path: "connectors/asana" });
  const popup = await windowOf(context, () => page.getByRole("button", { name: "Connect Asana" }).click());
  await popup.getByRole("button", { name: "Allow" }).waitFor();
  const before = (await sandbox.api(user, "/connections")).connections[0].attempt.id;
  await popup.close();
  await page.reload();
  const again = await windowOf(context, () => page.getByRole("button", { name: "Open it again" }).click());
  await decide(again, "Allow", "Ada Lovelace (private)");
  await page.getByText("Connected", { exact: true }).waitFor();
  assert.equal((await sandbox.api(user, "/connections")).connections[0].attempt.id, before);
});

test("connect: supports two named accounts of one connector", async ({ visit, sandbox, user }) => {
  const visitor = await visit({ path: "connectors/gmail" });
  await connect(visitor, "Ada Lovelace (work)");
  await connect(visitor, "Ada Lovelace (private)");
  const { connections } = await sandbox.api(user, "/connections?status=connected");
  assert.deepEqual(connections.map((one) => one.account.name).sort(), ["Ada Lovelace (private)", "Ada Lovelace (work)"]);
  const names = visitor.page.getByRole("list", { name: "Your Gmail accounts" }).getByRole("link");
  assert.equal(await names.count(), 2);
});

test("reconnect: reauthorizes the same connection", async ({ visit, sandbox, user }) => {
  const visitor = await visit({ path: "connectors/github" });
  const { context, page } = visitor;
  await connect(visitor, "Grace Hopper");
  const [before] = (await sandbox.api(user, "/connections")).connections;
  await page.getByRole("link", { name: "Grace Hopper" }).click();
  const popup = await windowOf(context, () => page.getByRole("button", { name: "Reconnect" }).click());
  await decide(popup, "Allow", "Grace Hopper");
  await page.getByText("Reconnected").waitFor();
  const [after] = (await sandbox.api(user, "/connections")).connections;
  assert.deepEqual([after.id, after.nango_connection_id], [before.id, before.nango_connection_id]);
});

test("reconnect: asks the user when the account differs", async ({ visit }) => {
  const visitor = await visit({ path: "connectors/github" });
  const { context, page } = visitor;
  await connect(visitor, "Grace Hopper");
  await page.getByRole("link", { name: "Grace Hopper" }).click();
  const popup = await windowOf(context, () => page.getByRole("button", { name: "Reconnect" }).click());
  await decide(popup, "Allow", "Alan Turing");
  await page.getByText("You reconnected with another account").waitFor();
  await page.getByRole("button", { name: "Use Alan Turing" }).click();
  await page.getByRole("heading", { level: 1, name: "Alan Turing" }).waitFor();
  await page.getByText("Connected", { exact: true }).first().waitFor();
});

test("disconnect: appears in another tab", async ({ visit, sandbox, user }) => {
  const visitor = await visit({ path: "connectors/gmail" });
  const { context, page } = visitor;
  await connect(visitor, "Ada Lovelace (work)");
  const other = await context.newPage();
  await other.goto(page.url());
  await other.getByText("Connected", { exact: true }).waitFor();
  await page.getByRole("link", { name: "Ada Lovelace (work)" }).click();
  await page.getByRole("button", { name: "Disconnect" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Disconnect" }).click();
  await other.getByText("Disconnected (1)").waitFor();
  await other.getByText("No Gmail account yet").waitFor();
  // The other tab shows the disconnect as soon as it is stored, before Nango is notified.
  await eventually("Nango has deleted it", async () => {
    const held = await sandbox.connections();
    return !held.some((one) => one.provider_config_key === "gmail" && one.tags.end_user_id === user);
  });
});

test("connections: are not visible to another user", async ({ visit }) => {
  const visitor = await visit({ user: "ada", path: "connectors/gmail" });
  const { page } = visitor;
  await connect(visitor, "Ada Lovelace (work)");
  await page.getByRole("link", { name: "Ada Lovelace (work)" }).click();
  await page.getByRole("heading", { level: 1, name: "Ada Lovelace (work)" }).waitFor();
  await page.getByLabel("You are").selectOption("Grace Hopper");
  await page.getByText("There is no such connection").waitFor();
  await page.getByRole("link", { name: "To your connections" }).click();
  await page.getByText("Nothing is connected yet").waitFor();
  await page.getByLabel("You are").selectOption("Ada Lovelace");
  await page.getByText("Ada Lovelace (work)").first().waitFor();
});

test("rename: saves and removes a custom name", async ({ visit }) => {
  const visitor = await visit({ path: "connectors/gmail" });
  const { page } = visitor;
  await connect(visitor, "Grace Hopper");
  await page.getByRole("link", { name: "Grace Hopper" }).click();
  await page.getByLabel("What you call it").fill("The navy’s");
  await page.getByRole("button", { name: "Save" }).click();
  await page.getByRole("heading", { level: 1, name: "The navy’s" }).waitFor();
  await page.getByLabel("What you call it").fill("");
  await page.getByRole("button", { name: "Save" }).click();
  await page.getByRole("heading", { level: 1, name: "Grace Hopper" }).waitFor();
});

test("connect: uses Nango's page for an API key connector", async ({ visit }) => {
  const { context, page } = await visit({ path: "connectors/anthropic-claude" });
  await page.getByRole("button", { name: "Connect Anthropic Claude" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByRole("textbox").fill("2023-06-01");
  const popup = await windowOf(context, () => dialog.getByRole("button", { name: "Connect Anthropic Claude" }).click());
  await popup.getByLabel("API key").fill("invalid");
  await popup.getByRole("button", { name: "Connect" }).click();
  await popup.getByText("did not accept").waitFor();
  await popup.getByLabel("API key").fill("made-up");
  await popup.getByRole("button", { name: "Connect" }).click();
  await page.getByText("Connected", { exact: true }).waitFor();
});
