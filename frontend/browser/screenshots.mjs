// The README's screenshots: `npm run screenshots` recreates them, in docs/screenshots or in the folder that is given.
import { mkdir, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { decide, launch, open, windowOf } from "./lib/browser.mjs";
import { eventually, Sandbox } from "./lib/sandbox.mjs";

const FOLDER = resolve(process.argv[2] ?? join(import.meta.dirname, "../../docs/screenshots"));
const WIDE = { width: 1024, height: 600 };
/** The maximum size of a screenshot, in bytes. */
const HEAVIEST = 100 * 1024;

const sandbox = await Sandbox.start();
const browser = await launch();
let partlyGranted;
try {
  await mkdir(FOLDER, { recursive: true });
  const { context, page } = await open(browser, sandbox, "ada", { viewport: WIDE });
  await furnish(context, page);
  for (const colours of ["light", "dark"]) await show(colours);
} finally {
  await browser.close();
  await sandbox.stop();
}

/** Connections as a user has them after a while: some that work, one that was denied, one that was withdrawn. */
async function furnish(context, page) {
  await connected(context, page, "gmail", "Ada Lovelace (work)");
  await connected(context, page, "gmail", "Ada Lovelace (private)");
  await connected(context, page, "github", "Ada Lovelace (work)");
  await connected(context, page, "linear", "Ada Lovelace (work)");
  await connected(context, page, "asana", "Grace Hopper");
  await begin(context, page, "notion", (popup) => decide(popup, "Deny"));
  await page.getByText("access was declined", { exact: false }).waitFor();
  await page.goto(`${sandbox.url}/console/connections`);
  await page.getByRole("link", { name: "Grace Hopper" }).click();
  const reconnect = await windowOf(context, () => page.getByRole("button", { name: "Reconnect" }).click());
  await decide(reconnect, "Allow", "Alan Turing");
  await page.getByText("You reconnected with another account").waitFor();
  partlyGranted = await connectedInPart(page);
}

/** Connects an account with one of two scopes. Returns the connection's id. */
async function connectedInPart(page) {
  await sandbox.faults({ consent: "allow", withheld_scopes: ["gist"] });
  const headers = { authorization: `Bearer ${await sandbox.token("ada")}`, "content-type": "application/json" };
  const body = JSON.stringify({ label: "Open source", scopes: ["repo", "gist"], login_hint: "ada-private" });
  const path = "/api/v1/connectors/github/connect?instance_id=open-source";
  const answer = await fetch(sandbox.url + path, { method: "POST", headers, body });
  const { oauth_url: url, connection_id: id } = await answer.json();
  await page.goto(url);
  await eventually("the account is known", async () => (await sandbox.api("ada", `/connections/${id}`)).account !== null);
  await sandbox.faults({});
  return id;
}

async function begin(context, page, slug, then) {
  await page.goto(`${sandbox.url}/console/connectors/${slug}`);
  const button = page.getByRole("button", { name: /^Connect / }).first();
  const popup = await windowOf(context, () => button.click());
  await then(popup);
}

async function connected(context, page, slug, account) {
  await begin(context, page, slug, (popup) => decide(popup, "Allow", account));
  await page.getByRole("link", { name: account }).waitFor();
}

async function show(colours) {
  const { context, page } = await open(browser, sandbox, "ada", { viewport: WIDE, colorScheme: colours });
  const go = (path) => page.goto(`${sandbox.url}/console/${path}`);
  await page.getByText(/^Communication/).first().click();
  await page.getByText("2 accounts").waitFor();
  await shoot(page, "catalog", colours);

  await go("connectors/gmail");
  await page.getByText("Connected", { exact: true }).first().waitFor();
  await shoot(page, "connected", colours);

  await go(`connections/${partlyGranted}`);
  await page.getByText("Some permissions were not granted").waitFor();
  await shoot(page, "account", colours);

  await go("connections");
  await page.getByText("You reconnected with another account").waitFor();
  await shoot(page, "manager", colours);

  // A connector that has not been tried in the other colours.
  await go(colours === "light" ? "connectors/calendly" : "connectors/dropbox");
  const popup = await windowOf(context, () => page.getByRole("button", { name: /^Connect / }).click());
  await popup.setViewportSize({ width: 560, height: 680 });
  await popup.getByRole("button", { name: "Allow" }).waitFor();
  await shoot(popup, "consent", colours);
  await decide(popup, "Deny");
  await page.getByText("access was declined", { exact: false }).waitFor();
  await shoot(page, "failed", colours);

  await page.getByRole("button", { name: "Sandbox controls" }).click();
  await page.getByRole("switch", { name: "Webhooks get lost" }).check();
  await page.getByRole("region", { name: "Faults in force" }).waitFor();
  await page.setViewportSize({ ...WIDE, height: 520 });
  await shoot(page, "sandbox", colours);
  await sandbox.faults({});
  await context.close();
}

async function shoot(page, name, colours) {
  const path = join(FOLDER, `${name}-${colours}.png`);
  await page.mouse.move(0, 0);
  await page.screenshot({ path, animations: "disabled", caret: "hide" });
  const { size } = await stat(path);
  console.log(`${name}-${colours}.png: ${Math.ceil(size / 1024)} KB`);
  if (!process.argv[2] && size > HEAVIEST) throw new Error(`${path} is heavier than ${HEAVIEST / 1024} KB`);
}
