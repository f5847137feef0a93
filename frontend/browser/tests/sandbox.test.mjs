// The switches of the sandbox's panel.
import assert from "node:assert/strict";
import { house } from "../lib/setup.mjs";

const { test } = house();

test("each_switch_sets_its_fault_explains_it_and_is_reset", async ({ visit, sandbox }) => {
  const { page } = await visit();
  const faults = async () => (await fetch(`${sandbox.controls}/sandbox/faults`)).json();
  const none = JSON.stringify(await faults());
  await page.getByRole("button", { name: "Sandbox controls" }).click();
  const switches = page.getByRole("switch");
  await switches.first().waitFor();
  const count = await switches.count();
  assert.ok(count >= 11, `${count} switches`);
  const reset = page.getByRole("button", { name: "Reset all faults" });
  for (let index = 0; index < count; index += 1) {
    const one = switches.nth(index);
    await one.check();
    const [changed] = await Promise.all([
      page.getByRole("region", { name: "Faults in force" }).innerText(),
      page.waitForFunction(() => document.querySelector(".sandbox button[aria-disabled=false]") !== null),
    ]);
    assert.notEqual(JSON.stringify(await faults()), none, changed);
    const explained = await one.evaluate((element) => element.closest(".fault").textContent);
    assert.match(explained, /What you should see: ./);
    // By its own switch, or by the one for all.
    if (index % 2 === 0) await one.uncheck();
    else await reset.click();
    await page.getByRole("region", { name: "Faults in force" }).waitFor({ state: "detached" });
    await page.waitForFunction(() => [...document.querySelectorAll("[role=switch]")].every((element) => !element.checked));
    assert.equal(JSON.stringify(await faults()), none);
  }
});
