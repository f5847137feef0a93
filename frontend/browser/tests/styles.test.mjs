// The package's stylesheet looks the same in a production build as it is written, in pages of either colour scheme.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { devServer, productionPages } from "../lib/app.mjs";
import { launch, newContext } from "../lib/browser.mjs";
import { host } from "../lib/host.mjs";

let browser, dev, product;
before(async () => {
  [browser, dev, product] = await Promise.all([launch(), devServer(), productionPages().then(host)]);
});
after(async () => {
  await browser?.close();
  await dev?.stop();
  await product?.stop();
});

const CONNECTION = {
  id: "1", user_id: "ada", connector_id: "2", connector_slug: "gmail", connector_name: "Gmail", instance_id: "", label: "Work",
  status: "error", status_reason: "needs_reauthorization", config: {}, same_account_as: [], error_count: 1, version: 3,
  created_at: "2026-01-01T00:00:00Z", updated_at: "2026-01-01T00:00:00Z", connected_at: "2026-01-01T00:00:00Z",
};

/** Every colour of every element of the components. */
function colours() {
  const properties = ["color", "background-color", "border-top-color", "border-top-style", "border-top-width", "fill", "color-scheme"];
  return [...document.querySelectorAll("[data-patchbay]")].map((element) => {
    const style = getComputedStyle(element);
    return [element.dataset.patchbay, ...properties.map((name) => style.getPropertyValue(name))].join(" ");
  });
}

async function coloursOf(url, { prefers, scheme }) {
  const context = await newContext(browser, { colorScheme: prefers });
  try {
    await context.route("**/api/v1/connectors/**", (route) => {
      const path = new URL(route.request().url()).pathname;
      if (path.endsWith("/events")) return route.abort();
      if (path.endsWith("/logo")) return route.fulfill({ status: 404 });
      return route.fulfill({ json: { connections: [CONNECTION, { ...CONNECTION, id: "3", status: "connected", status_reason: null }], total_count: 2, next_cursor: null } });
    });
    const page = await context.newPage();
    await page.goto(`${url}?api=${new URL(url).origin}&token=x&views=manager,button&scheme=${scheme ?? ""}`);
    await page.getByRole("listitem").nth(1).waitFor();
    // Initials take the place of logos that do not load.
    await page.waitForFunction(() => !document.querySelector("[data-patchbay=logo] img"));
    return await page.evaluate(colours);
  } finally {
    await context.close();
  }
}

for (const prefers of ["light", "dark"]) {
  for (const scheme of [null, "light", "dark", "light dark"]) {
    test(`production_build_keeps_colours (prefers ${prefers}, page: ${scheme ?? "no scheme"})`, async () => {
      const built = await coloursOf(`${product.origin}/app`, { prefers, scheme });
      const written = await coloursOf(`${dev.origin}/`, { prefers, scheme });
      assert.deepEqual(built, written);
      const dark = scheme === "dark" || (scheme === "light dark" && prefers === "dark");
      const card = built.find((line) => line.startsWith("connection "));
      assert.match(card, dark ? /^connection rgb\(236, 238, 244\) rgb\(26, 30, 41\) / : /^connection rgb\(27, 31, 42\) rgb\(255, 255, 255\) /);
      assert.match(card, / solid 1px /);
    });
  }
}
