// A large catalog and many connections.
import assert from "node:assert/strict";
import { eventually } from "../lib/sandbox.mjs";
import { connected, failingHouse, isCatalog, isList } from "../lib/failing.mjs";

const test = failingHouse(6);

const CONNECTORS = 981;
const CONNECTIONS = 300;

const json = (body) => ({ status: 200, type: "application/json", body: JSON.stringify(body) });

/** The service's answers, with so many of what it has one of. */
async function large({ sandbox, user }, id) {
  const { connectors, categories } = await sandbox.api(user, "?limit=1");
  const one = await sandbox.api(user, `/connections/${id}`);
  const numbers = (count) => Array.from({ length: count }, (_, number) => number);
  const uuid = (number) => `00000000-0000-4000-8000-${String(number).padStart(12, "0")}`;
  const catalog = numbers(CONNECTORS).map((number) => ({ ...connectors[0], id: uuid(number), slug: `connector-${number}`, name: `Connector ${number}` }));
  const list = numbers(CONNECTIONS).map((number) => ({
    ...one,
    id: uuid(number),
    instance_id: String(number),
    label: `Account ${number}`,
    connector_slug: `connector-${number}`,
    connector_id: uuid(number),
  }));
  return (request) => {
    if (isCatalog(request)) {
      const search = new URLSearchParams(request.path).get("search")?.toLowerCase() ?? "";
      const connectors = catalog.filter(({ name }) => name.toLowerCase().includes(search));
      return json({ connectors, categories, total_count: connectors.length, next_cursor: null });
    }
    if (isList(request)) return json({ connections: list, total_count: CONNECTIONS, next_cursor: null });
    return "pass";
  };
}

async function took(run) {
  const start = performance.now();
  await run();
  return performance.now() - start;
}

test("large_catalog_answers_at_once (console)", async (given) => {
  const { page, broken, proxy } = await given.behind({ path: "", fate: await large(given, await connected(given)) });
  const shown = await took(() => page.getByText(`${CONNECTORS} connectors`).waitFor({ state: "attached" }));
  await page.getByRole("link", { name: "Manage Connector 299" }).waitFor({ state: "attached" });
  const searched = await took(async () => {
    await page.getByRole("searchbox").fill("connector 980");
    await page.getByText("1 connector", { exact: true }).waitFor({ state: "attached" });
    await eventually("the service has searched, too", () => proxy.count("search=connector+980") === 1);
    await page.getByText("1 connector", { exact: true }).waitFor({ state: "attached" });
  });
  const cleared = await took(async () => {
    await page.getByRole("searchbox").fill("");
    await page.getByText(`${CONNECTORS} connectors`).waitFor({ state: "attached" });
  });
  await page.getByRole("link", { name: "Connections" }).first().click();
  const listed = await took(() => page.getByRole("list", { name: "Connected" }).getByRole("listitem").nth(CONNECTIONS - 1).waitFor());
  console.log(`console, ${CONNECTORS} connectors: shown ${shown | 0}, searched ${searched | 0}, cleared ${cleared | 0}, ${CONNECTIONS} listed ${listed | 0} ms`);
  assert.deepEqual(broken, []);
});

test("fast_typing_in_search_loses_nothing (console)", async (given) => {
  const { page, broken } = await given.behind({ path: "" });
  await page.getByText("99 connectors").waitFor({ state: "attached" });
  await page.getByRole("searchbox").focus();
  // More than a browser lets a page change its address within ten seconds.
  const text = Array.from({ length: 300 }, (_, index) => index % 10).join("");
  await page.evaluate((text) => {
    for (const letter of text) document.execCommand("insertText", false, letter);
  }, text);
  assert.equal(await page.getByRole("searchbox").inputValue(), text);
  await eventually("the address has the search", () => new URL(page.url()).searchParams.get("search") === text);
  await page.reload();
  await page.getByText("Nothing found").waitFor();
  assert.equal(await page.getByRole("searchbox").inputValue(), text);
  assert.deepEqual(broken, []);
});

test("many_connections_answer_at_once (package)", async (given) => {
  const { page, broken } = await given.behind({ views: "manager,catalog", fate: await large(given, await connected(given)) });
  const cards = page.getByRole("region", { name: "Connections" }).getByRole("listitem");
  const shown = await took(() => cards.nth(CONNECTIONS - 1).waitFor());
  const opened = await took(async () => {
    await cards.nth(CONNECTIONS - 1).getByRole("button", { name: "Rename" }).click();
    await page.getByLabel("Name", { exact: true }).waitFor();
  });
  const searched = await took(async () => {
    await page.getByRole("searchbox").fill("anything");
    await page.waitForFunction(() => document.querySelector("input[type=search]").value === "anything");
  });
  console.log(`package, ${CONNECTIONS} connections: shown ${shown | 0}, form ${opened | 0}, typed ${searched | 0} ms`);
  assert.deepEqual(broken, []);
});
