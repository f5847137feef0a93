import { afterEach, beforeEach } from "vitest";
import { browser } from "./support/browser.js";
import { faults } from "./support/nango.js";
import { closeAll } from "./support/proxy.js";

beforeEach(async () => {
  await faults({});
  browser.reset();
});

afterEach(closeAll);
