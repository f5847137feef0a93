// One sandbox and one browser for a file of tests; each test has a user and a window of its own.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { closed, decide, launch, open, windowOf } from "./browser.mjs";
import { Sandbox } from "./sandbox.mjs";

/**
 * Registers tests that share a sandbox. `house` is filled before the first one. Faults are cleared before each, and
 * a page's own errors fail its test after it.
 */
export function house(options = async () => ({})) {
  const house = {};
  let users = 0;
  before(async () => {
    const settings = await options();
    house.sandbox = await Sandbox.start(settings);
    house.browser = await launch();
  });
  after(async () => {
    await house.browser?.close();
    await house.sandbox?.stop();
  });
  house.test = (name, run) =>
    test(name, { timeout: 300_000 }, async () => {
      await house.sandbox.faults({});
      users += 1;
      const user = `user-${users}`;
      const opened = [];
      const visit = async (settings = {}) => {
        const visitor = await open(house.browser, house.sandbox, settings.user ?? user, settings);
        opened.push(visitor);
        return visitor;
      };
      try {
        await run({ ...house, user, visit });
        assert.deepEqual(opened.flatMap(({ broken }) => broken), [], "what the pages threw or were refused");
      } catch (error) {
        console.log(`the sandbox said: ${house.sandbox.said}`);
        throw error;
      } finally {
        for (const { context } of opened) await context.close();
      }
    });
  return house;
}

/** Connects the connector whose page is shown; the account's row is then there. */
export async function connect({ context, page }, account) {
  const button = page.getByRole("button", { name: /^Connect (another account|\S+)$/ });
  const popup = await windowOf(context, () => button.click());
  await decide(popup, "Allow", account);
  await closed(popup);
  const row = page.getByRole("listitem").filter({ has: page.getByRole("link", { name: account }) });
  await row.getByText("Connected", { exact: true }).waitFor();
  return row;
}
