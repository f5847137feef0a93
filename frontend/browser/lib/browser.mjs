// Chromium, and a user in it who looks at the console.
import { existsSync } from "node:fs";
import { chromium } from "playwright-core";

const PROGRAMS = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];

/** The timeout of a step in milliseconds, longer than any step needs. A step waits for a state, never for a time. */
const PATIENCE = 30_000;

/** Starts a browser with a new profile. Like a real browser, it blocks popups that no click has opened, and limits how often a page changes its address. */
export async function launch() {
  const executablePath = PROGRAMS.find((program) => program && existsSync(program));
  if (!executablePath) throw new Error("there is no Chromium: install the package chromium, or name one with CHROMIUM");
  return chromium.launch({
    executablePath,
    ignoreDefaultArgs: ["--disable-popup-blocking", "--disable-ipc-flooding-protection"],
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
}

/** Opens a window with its own storage, in which no user is signed in. */
export async function newContext(browser, options = {}) {
  const context = await browser.newContext({ reducedMotion: "reduce", ...options });
  context.setDefaultTimeout(PATIENCE);
  context.setDefaultNavigationTimeout(PATIENCE);
  return context;
}

/** The console as a user sees it. Whatever a page throws or its policy refuses fails the test. */
export async function open(browser, sandbox, user, { path = "", ...options } = {}) {
  const context = await newContext(browser, options);
  const broken = [];
  context.on("weberror", (error) => broken.push(error.error().message));
  context.on("console", (message) => {
    if (message.type() === "error" && /Content Security Policy|Uncaught|Unsafe attempt/.test(message.text())) broken.push(message.text());
  });
  await context.addInitScript(beginAs, [new URL(sandbox.url).origin, user]);
  const page = await context.newPage();
  // Not the last of many logos.
  await page.goto(`${sandbox.url}/console/${path}`, { waitUntil: "domcontentloaded" });
  return { context, page, broken };
}

/** Runs in every page: a new tab of the console begins as this user, and may become another. */
function beginAs([origin, user]) {
  const key = "patchbay:console:user";
  if (location.origin === origin && !sessionStorage.getItem(key)) sessionStorage.setItem(key, user);
}

/** Clicks, and answers the window that this opens. */
export async function windowOf(context, click) {
  const [opened] = await Promise.all([context.waitForEvent("page"), click()]);
  return opened;
}

/** Allows or denies on the provider's page, as one of its accounts. */
export async function decide(popup, decision, account) {
  if (account) await popup.getByRole("radio", { name: account }).check();
  await popup.getByRole("button", { name: decision, exact: true }).click();
}

/** Waits until a window is gone. */
export async function closed(popup) {
  if (!popup.isClosed()) await popup.waitForEvent("close");
}
