// The package in a product's production build: the form of parameters, cancel and remove, and axe on all components.
import assert from "node:assert/strict";
import { after } from "node:test";
import { productionPages } from "../lib/app.mjs";
import { audit } from "../lib/axe.mjs";
import { decide, newContext, windowOf } from "../lib/browser.mjs";
import { connected } from "../lib/failing.mjs";
import { host } from "../lib/host.mjs";
import { eventually } from "../lib/sandbox.mjs";
import { house } from "../lib/setup.mjs";

let product;
const { test } = house(async () => {
  product = await host(await productionPages());
  return { origins: [product.origin] };
});
after(() => product?.stop());

/** The product's page with these views. */
async function shown({ browser, sandbox, user }, views, options = {}, run) {
  const context = await newContext(browser, options);
  try {
    const page = await context.newPage();
    const query = new URLSearchParams({ api: sandbox.url, token: await sandbox.token(user), views });
    await page.goto(`${product.origin}/app?${query}`);
    await run({ context, page });
  } finally {
    await context.close();
  }
}

test("package_asks_for_parameters_in_a_form", async (given) => {
  await shown(given, "zendesk", {}, async ({ context, page }) => {
    const known = page.waitForResponse((answer) => /\/connectors\/(zendesk|[0-9a-f-]{36})$/.test(answer.url()) && answer.ok());
    await page.reload();
    await known;
    await page.getByRole("button", { name: "Connect Zendesk" }).click();
    const form = page.getByRole("form", { name: "Connect Zendesk" });
    await form.getByRole("button", { name: "Connect Zendesk" }).click();
    await form.getByRole("alert").getByText("Enter the Zendesk subdomain.").waitFor();
    await form.getByLabel("Zendesk subdomain").fill("https://acme.zendesk.com");
    const popup = await windowOf(context, () => form.getByRole("button", { name: "Connect Zendesk" }).click());
    await decide(popup, "Allow", "Grace Hopper");
    await page.getByRole("button", { name: "Zendesk connected" }).waitFor();
  });
});

test("package_cancel_leaves_nothing_and_failed_is_removed", async (given) => {
  const { sandbox, user } = given;
  await shown(given, "button,manager", {}, async ({ context, page }) => {
    const popup = await windowOf(context, () => page.getByRole("button", { name: "Connect Gmail" }).click());
    await popup.getByRole("button", { name: "Allow" }).waitFor();
    await page.getByRole("button", { name: "Cancel" }).first().click();
    await page.getByText("Nothing is connected yet.").waitFor();
    await decide(popup, "Allow", "Grace Hopper");
    await eventually("nothing is left at Nango", async () => {
      const held = await sandbox.connections();
      return !held.some((one) => one.tags.end_user_id === user);
    });
    await page.getByText("Nothing is connected yet.").waitFor();

    const denied = await windowOf(context, () => page.getByRole("button", { name: "Connect Gmail" }).click());
    await decide(denied, "Deny");
    const card = page.getByRole("listitem");
    await card.getByRole("button", { name: "Remove" }).waitFor();
    assert.equal(await card.getByRole("button", { name: "Disconnect" }).count(), 0);
    await card.getByRole("button", { name: "Remove" }).click();
    await page.getByText("Gmail is removed.").waitFor();
    await page.getByText("Nothing is connected yet.").waitFor();
  });
});

test("package_picker_tells_duplicates_apart", async (given) => {
  await connected(given, "gmail");
  await connected(given, "gmail", "second");
  await shown(given, "picker", {}, async ({ page }) => {
    const options = page.getByRole("combobox").locator("option");
    await page.waitForFunction(() => document.querySelectorAll("option").length === 3);
    const texts = (await options.allTextContents()).slice(1);
    assert.equal(new Set(texts.map((text) => text.split(", connected ")[0])).size, 1);
    assert.ok(texts.every((text) => text.includes(", connected ")), texts.join(" | "));
  });
});

for (const colorScheme of ["light", "dark"]) {
  test(`axe: reports no issues in the package (${colorScheme})`, async (given) => {
    await connected(given, "gmail");
    await shown(given, "button,zendesk,manager,picker,catalog", { colorScheme }, async ({ page }) => {
      await page.evaluate((scheme) => {
        document.documentElement.style.colorScheme = scheme;
        document.body.style.background = "Canvas";
        document.body.style.color = "CanvasText";
      }, colorScheme);
      await page.getByText("99 connectors").waitFor();
      await page.getByRole("button", { name: "History" }).click();
      await page.getByRole("button", { name: "Rename" }).click();
      await page.getByRole("button", { name: "Connect Zendesk" }).first().click();
      await page.getByRole("form", { name: "Connect Zendesk" }).first().waitFor();
      await audit(page, "the components");
    });
  });
}
