// The keyboard's focus stays with what was used, and what happened is announced once.
import assert from "node:assert/strict";
import { decide, windowOf } from "../lib/browser.mjs";
import { connected, failingHouse } from "../lib/failing.mjs";
import { gateway } from "../lib/proxy.mjs";

const test = failingHouse();

/** The accessible name of what has the focus; empty where that is the page. */
function focused(page) {
  return page.evaluate(() => {
    const element = document.activeElement;
    if (!element || element === document.body) return "";
    return (element.getAttribute("aria-label") ?? element.labels?.[0]?.textContent ?? element.textContent ?? "").trim();
  });
}

/** Waits until this has the focus, and lets the page come to rest. */
async function focusIs(page, name) {
  await page.waitForFunction(() => document.activeElement !== document.body);
  await page.evaluate(() => new Promise((resolve) => setTimeout(resolve, 150)));
  assert.match(await focused(page), name);
}

/** Writes down all that live regions say from now on. */
async function listen(page) {
  await page.evaluate(() => {
    globalThis.said = [];
    const regions = "[role=status], [role=alert], [aria-live]";
    const observer = new MutationObserver((changes) => {
      for (const { target } of changes) {
        const region = (target.nodeType === 1 ? target : target.parentElement)?.closest(regions);
        const text = region?.textContent.trim();
        if (text && globalThis.said.at(-1) !== text) globalThis.said.push(text);
      }
    });
    observer.observe(document.body, { subtree: true, childList: true, characterData: true });
  });
}

async function said(page, text) {
  await page.waitForFunction((text) => globalThis.said.some((one) => one.includes(text)), text);
  return page.evaluate((text) => globalThis.said.filter((one) => one.includes(text)).length, text);
}

async function press(page, button) {
  await button.focus();
  await page.keyboard.press("Enter");
}

test("focus_stays_after_cancel_and_reopen (package)", async (given) => {
  const { context, page } = await given.behind({ views: "button" });
  const connect = page.getByRole("button", { name: "Connect Gmail" });
  await connect.waitFor();
  await listen(page);
  const popup = await windowOf(context, () => press(page, connect));
  await popup.getByRole("button", { name: "Allow" }).waitFor();
  await popup.close();
  const reopen = page.getByRole("button", { name: "Open it again" });
  const again = await windowOf(context, () => press(page, reopen));
  await again.getByRole("button", { name: "Allow" }).waitFor();
  await focusIs(page, /^Connecting Gmail/);
  await press(page, page.getByRole("button", { name: "Cancel" }));
  await focusIs(page, /^Connect Gmail/);
  assert.equal(await said(page, "Canceled."), 1);
});

test("focus_stays_after_card_actions (package)", async (given) => {
  await connected(given);
  const { page, proxy } = await given.behind({ views: "manager" });
  const card = page.getByRole("listitem");
  await card.getByRole("button", { name: "Rename" }).waitFor();
  await listen(page);
  await press(page, card.getByRole("button", { name: "Check" }));
  await card.getByText("It works.").waitFor();
  await focusIs(page, /^Check/);
  await press(page, card.getByRole("button", { name: "Rename" }));
  await focusIs(page, /^Name/);
  await page.keyboard.type("Mine");
  await page.keyboard.press("Enter");
  await card.getByText("Mine").waitFor();
  await focusIs(page, /^Rename/);
  assert.equal(await said(page, "Saved."), 1);
  proxy.fate = ({ method }) => (method === "DELETE" ? gateway(502) : "pass");
  await press(page, card.getByRole("button", { name: "Disconnect" }));
  await focusIs(page, /^Cancel/);
  const confirm = page.getByRole("group", { name: "Disconnect Mine?" }).getByRole("button", { name: "Disconnect" });
  await press(page, confirm);
  await page.getByRole("alert").waitFor();
  await focusIs(page, /^Disconnect/);
  proxy.fate = () => "pass";
  await press(page, page.getByRole("alert").getByRole("button", { name: "Try again" }));
  await page.getByText("Disconnected (1)").waitFor();
  await focusIs(page, /^Disconnected \(1\)/);
  assert.equal(await said(page, "Mine is disconnected."), 1);
});

test("focus_stays_after_cancel_and_reopen (console)", async (given) => {
  const { context, page } = await given.behind({ path: "connectors/gmail" });
  const connect = page.getByRole("button", { name: "Connect Gmail" });
  await connect.waitFor();
  await listen(page);
  const popup = await windowOf(context, () => press(page, connect));
  await popup.getByRole("button", { name: "Allow" }).waitFor();
  await focusIs(page, /./);
  await popup.close();
  const again = await windowOf(context, () => press(page, page.getByRole("button", { name: "Open it again" }).first()));
  await again.getByRole("button", { name: "Allow" }).waitFor();
  await focusIs(page, /^Show it again/);
  await press(page, page.getByRole("button", { name: "Cancel" }).first());
  await focusIs(page, /./);
  assert.equal(await said(page, "Canceled."), 1);
});

test("focus_stays_after_actions (console)", async (given) => {
  const id = await connected(given);
  const { page, proxy } = await given.behind({ path: `connections/${id}` });
  await page.getByRole("button", { name: "Check now" }).waitFor();
  await listen(page);
  await press(page, page.getByRole("button", { name: "Check now" }));
  await page.getByText("it works").waitFor();
  await focusIs(page, /^Check now/);
  await page.getByLabel("What you call it").fill("Mine");
  await press(page, page.getByRole("button", { name: "Save" }));
  await page.getByRole("heading", { level: 1, name: "Mine" }).waitFor();
  await focusIs(page, /^Save/);
  assert.equal(await said(page, "Saved: Mine"), 1);
  proxy.fate = ({ method }) => (method === "DELETE" ? gateway(502) : "pass");
  await press(page, page.getByRole("button", { name: "Disconnect" }));
  const dialog = page.getByRole("dialog");
  await press(page, dialog.getByRole("button", { name: "Disconnect" }));
  await dialog.getByRole("alert").waitFor();
  await focusIs(page, /^Disconnect/);
  proxy.fate = () => "pass";
  await press(page, dialog.getByRole("button", { name: "Disconnect" }));
  await dialog.waitFor({ state: "detached" });
  await focusIs(page, /./);
  assert.equal(await said(page, "Gmail: Disconnected"), 1);
});

test("account_mismatch_offers_both_choices_at_once", async (given) => {
  const id = await connected(given, "github");
  const { context, page } = await given.behind({ path: `connections/${id}` });
  const popup = await windowOf(context, () => page.getByRole("button", { name: "Reconnect" }).click());
  await decide(popup, "Allow", "Alan Turing");
  await page.getByRole("button", { name: "Use Alan Turing" }).waitFor();
  await page.getByRole("button", { name: /^Reconnect Ada/ }).waitFor();
});
