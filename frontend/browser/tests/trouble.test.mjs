// Failures during a connect, and the messages that the user sees.
import assert from "node:assert/strict";
import { decide, windowOf } from "../lib/browser.mjs";
import { connect, house } from "../lib/setup.mjs";

const { test } = house();

/** What the service answers where it refuses: words for its operator, and the id that leads to its log. */
const refusal = (status, code) => ({
  status,
  contentType: "application/problem+json",
  body: JSON.stringify({ code, title: "", detail: "words for an operator", request_id: "0198-in-the-log" }),
});

test("account list: reports a failed load and offers no connect action", async ({ visit, sandbox }) => {
  const visitor = await visit({ path: "connectors/gmail" });
  const { context, page } = visitor;
  await connect(visitor, "Ada Lovelace (work)");
  await context.route("**/connectors/connections?**", (route) => route.fulfill(refusal(502, "nango_error")));
  await page.goto(`${sandbox.url}/console/connections`);
  await page.getByRole("alert").filter({ hasText: "Your connections cannot be shown" }).waitFor();
  assert.equal(await page.getByText("Nothing is connected yet").count(), 0);
  await page.goto(`${sandbox.url}/console/`);
  const alert = page.getByRole("alert").filter({ hasText: "Your accounts cannot be shown" });
  await alert.getByText("If it stays so, tell support.").waitFor();
  assert.equal(await page.getByText("words for an operator").isVisible(), false);
  await alert.getByText("Details").click();
  await alert.getByText("words for an operator").waitFor();
  await alert.getByText("0198-in-the-log").waitFor();
  assert.equal(await page.getByRole("button", { name: "Connect Gmail" }).count(), 0);
  const retry = alert.getByRole("button", { name: "Try again" });
  await retry.click();
  await context.unroute("**/connectors/connections?**");
  // The page retries by itself, too, and may be faster than the click.
  await retry.click({ timeout: 5000 }).catch(() => {});
  await page.getByRole("listitem").filter({ hasText: "Gmail" }).getByText("Ada Lovelace (work)").waitFor();
});

test("check: announces a problem in an existing live region", async ({ visit, sandbox }) => {
  const visitor = await visit({ path: "connectors/linear" });
  const { page } = visitor;
  await connect(visitor, "Grace Hopper");
  await page.getByRole("link", { name: "Grace Hopper" }).click();
  const said = page.getByRole("region", { name: "What you can do" }).getByRole("status");
  await page.getByRole("button", { name: "Check now" }).waitFor();
  assert.deepEqual(await said.allTextContents(), [""]);
  await sandbox.faults({ refuse_refresh: true });
  await page.getByRole("button", { name: "Check now" }).click();
  await said.getByText("The provider does not answer as it should. Trying again.").waitFor();
  await sandbox.faults({});
  await page.getByRole("button", { name: "Check now" }).click();
  await said.getByText("it works").waitFor();
});

test("rejections: are explained next to the action", async ({ visit, sandbox }) => {
  const visitor = await visit({ path: "connectors/github" });
  const { context, page } = visitor;
  await connect(visitor, "Grace Hopper");
  await page.getByRole("link", { name: "Grace Hopper" }).click();

  const name = page.getByLabel("What you call it");
  await name.fill("A name");
  await context.route("**/connectors/connections/*", (route) =>
    route.request().method() === "PATCH" ? route.fulfill(refusal(400, "invalid_request")) : route.fallback(),
  );
  await page.getByRole("button", { name: "Save" }).click();
  await page.getByRole("alert").getByText("That cannot be done.").waitFor();
  const described = await name.evaluate((input) => document.getElementById(input.getAttribute("aria-describedby"))?.textContent);
  assert.match(described, /That cannot be done\..*0198-in-the-log/);
  assert.equal(await name.getAttribute("aria-invalid"), "true");

  const popup = await windowOf(context, () => page.getByRole("button", { name: "Reconnect" }).click());
  await decide(popup, "Allow", "Alan Turing");
  await context.route("**/account", (route) => route.fulfill(refusal(502, "nango_error")));
  await page.getByRole("button", { name: "Use Alan Turing" }).click();
  await page.getByRole("alert").getByText("If it stays so, tell support.").waitFor();
  await context.unroute("**/account");
  await page.getByRole("button", { name: "Use Alan Turing" }).click();
  await page.getByRole("heading", { level: 1, name: "Alan Turing" }).waitFor();

  await context.route("**/connect", (route) => route.fulfill(refusal(409, "connector_unavailable")));
  await page.goto(`${sandbox.url}/console/`);
  await page.getByRole("button", { name: "Connect Gmail" }).click();
  const card = page.getByRole("listitem").filter({ hasText: "Gmail" });
  await card.getByText("This connector is not available.").waitFor();
});

test("webhooks dropped: the connection is still detected", async ({ visit, sandbox }) => {
  await sandbox.faults({ drop_webhooks: true });
  const visitor = await visit({ path: "connectors/gmail" });
  await connect(visitor, "Ada Lovelace (work)");
});

test("Nango down: is reported and retried with one click", async ({ visit, sandbox }) => {
  const visitor = await visit({ path: "connectors/gmail" });
  const { context, page } = visitor;
  await connect(visitor, "Ada Lovelace (work)");
  await sandbox.faults({ status: 503 });
  await page.goto(`${sandbox.url}/console/connectors/github`);
  await page.getByRole("button", { name: "Connect GitHub" }).click();
  await page.getByText("The connection service could not be reached").first().waitFor();
  await page.getByText("Not started", { exact: true }).waitFor();
  await page.getByRole("link", { name: "Connections" }).first().click();
  await page.getByRole("list", { name: "Connected" }).getByText("Ada Lovelace (work)").first().waitFor();
  await sandbox.faults({});
  await page.goto(`${sandbox.url}/console/connectors/github`);
  const popup = await windowOf(context, () => page.getByRole("button", { name: "Connect GitHub" }).first().click());
  await decide(popup, "Allow", "Grace Hopper");
  await page.getByText("Connected", { exact: true }).waitFor();
});

test("Nango down during consent: the grant is detected on recovery", async ({ visit, sandbox }) => {
  const { context, page } = await visit({ path: "connectors/github" });
  const popup = await windowOf(context, () => page.getByRole("button", { name: "Connect GitHub" }).click());
  await popup.getByRole("button", { name: "Allow" }).waitFor();
  await sandbox.faults({ status: 503, drop_webhooks: true });
  await decide(popup, "Allow", "Grace Hopper");
  await page.getByText("Waiting for you", { exact: true }).first().waitFor();
  await sandbox.faults({});
  await page.getByText("Connected", { exact: true }).waitFor();
});

test("disconnect: is final when Nango refuses to delete", async ({ visit, sandbox, user }) => {
  const visitor = await visit({ path: "connectors/gmail" });
  const { page } = visitor;
  await connect(visitor, "Ada Lovelace (work)");
  await sandbox.faults({ refuse_delete: true });
  await page.getByRole("link", { name: "Ada Lovelace (work)" }).click();
  await page.getByRole("button", { name: "Disconnect" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Disconnect" }).click();
  await page.getByText("Disconnected", { exact: true }).first().waitFor();
  // What is there at the provider is not ours to delete, and Nango has deleted nothing yet.
  await page.getByText("You disconnected it, and its stored credentials are deleted.").waitFor();
  await page.getByText("The provider may still list the permission").waitFor();
  const own = async () => (await sandbox.connections()).filter((one) => one.tags.end_user_id === user);
  await sandbox.faults({});
  while ((await own()).length > 0) await new Promise((resolve) => setTimeout(resolve, 100));
});

test("expired session: is reported and restarted", async ({ visit, sandbox }) => {
  await sandbox.faults({ expired_sessions: true });
  const { context, page } = await visit({ path: "connectors/github" });
  const popup = await windowOf(context, () => page.getByRole("button", { name: "Connect GitHub" }).click());
  await popup.getByText("unknown_connect_session_token").waitFor();
  await page.getByText("Expired", { exact: true }).waitFor();
  await page.getByText("it took too long").waitFor();
  await sandbox.faults({});
  const again = await windowOf(context, () => page.getByRole("button", { name: "Connect", exact: true }).click());
  await decide(again, "Allow", "Grace Hopper");
  await page.getByText("Connected", { exact: true }).waitFor();
});

test("provider failure after consent: is shown as failed, not denied", async ({ visit, sandbox }) => {
  await sandbox.faults({ refuse_code: true });
  const { context, page } = await visit({ path: "connectors/github" });
  const popup = await windowOf(context, () => page.getByRole("button", { name: "Connect GitHub" }).click());
  await decide(popup, "Allow", "Grace Hopper");
  await page.getByText("was not connected.").waitFor();
  await page.getByText("Failed", { exact: true }).waitFor();
});

test("expired sign-in: is reported once and resumes after signing in", async ({ visit, sandbox }) => {
  const { context, page } = await visit();
  await page.getByRole("button", { name: "Connect Gmail" }).waitFor();
  await context.route("**/sandbox/token", (route) => route.fulfill({ json: { token: "no.longer.good" } }));
  await page.reload();
  await page.getByText("Your session has ended", { exact: true }).waitFor();
  await context.unroute("**/sandbox/token");
  await page.getByRole("button", { name: "Sign in again" }).click();
  await page.getByRole("button", { name: "Connect Gmail" }).waitFor();
  assert.equal(await page.getByText("Your session has ended", { exact: true }).count(), 0);
  assert.ok(await sandbox.token("ada"));
});

test("revoked access: is shown with its reason and repaired", async ({ visit }) => {
  const visitor = await visit({ path: "connectors/gmail" });
  const { context, page } = visitor;
  // Another account that works shows that it is not the provider's trouble.
  await connect(visitor, "Grace Hopper");
  await connect(visitor, "Ada Lovelace (work)");
  await page.getByRole("link", { name: "Ada Lovelace (work)" }).click();
  await page.getByRole("button", { name: "Revoke access" }).click();
  await page.getByText("Access ended", { exact: true }).or(page.getByText("Having trouble", { exact: true })).waitFor();
  const popup = await windowOf(context, () => page.getByRole("button", { name: "Reconnect" }).first().click());
  await decide(popup, "Allow", "Ada Lovelace (work)");
  await page.getByText("Connected", { exact: true }).first().waitFor();
});

test("faults: are set in the console, shown on every page and cleared", async ({ visit, sandbox }) => {
  const { page } = await visit();
  await page.getByRole("button", { name: "Sandbox controls" }).click();
  await page.getByRole("switch", { name: "Nango is down" }).check();
  await page.getByRole("switch", { name: "Webhooks get lost" }).check();
  await page.getByRole("radio", { name: "Deny" }).check();
  const banner = page.getByRole("region", { name: "Faults in force" });
  await banner.getByText("Nango is down").waitFor();
  const held = async () => (await fetch(`${sandbox.controls}/sandbox/faults`)).json();
  await page.waitForFunction(() => document.querySelector(".faults")?.textContent.includes("denied at once"));
  const faults = await held();
  assert.deepEqual([faults.status, faults.drop_webhooks, faults.consent], [503, true, "deny"]);
  await page.getByRole("button", { name: "Clear" }).click();
  await banner.waitFor({ state: "detached" });
  await page.getByRole("region", { name: "Requests and webhooks of Nango" }).getByRole("listitem").first().waitFor();
});
