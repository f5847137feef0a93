// The console and a product's production build, each behind a proxy that fails.
import { after } from "node:test";
import { productionPages } from "./app.mjs";
import { newContext, open } from "./browser.mjs";
import { host } from "./host.mjs";
import { Proxy } from "./proxy.mjs";
import { house } from "./setup.mjs";

/** How many proxies a file of tests may use. Their addresses have to be known before the sandbox starts. */
const PROXIES = 20;

/**
 * Registers tests like `house`, whose `behind` opens a page through a proxy of its own: the console at a path, or the product's
 * page with these views. `broken` has what the page has thrown.
 */
export function failingHouse(proxies = PROXIES) {
  const [all, free] = [[], []];
  let product;
  const { test } = house(async () => {
    product = await host(await productionPages());
    all.push(...(await Promise.all(Array.from({ length: proxies }, () => Proxy.start()))));
    free.push(...all);
    return {
      origins: [product.origin, ...all.map(({ url }) => url)],
      settings: { RATE_LIMIT_ADDRESS_PER_MINUTE: "100000", RATE_LIMIT_CONNECT_PER_MINUTE: "0", RATE_LIMIT_USER_PER_MINUTE: "100000", MAX_STREAMS_PER_USER: "100" },
    };
  });
  after(async () => {
    await product?.stop();
    await Promise.all(all.map((proxy) => proxy.stop()));
  });
  return (name, run) =>
    test(name, async (given) => {
      const contexts = [];
      const behind = async ({ path, views, fate, before, proxy = free.shift(), user = given.user, ...options }) => {
        proxy.target = given.sandbox.url;
        if (fate) proxy.fate = fate;
        if (path !== undefined) {
          const visitor = await openConsole(given, proxy, user, path, before, options);
          contexts.push(visitor.context);
          return { ...visitor, proxy };
        }
        const context = options.context ?? (await newContext(given.browser, options));
        contexts.push(context);
        const broken = [];
        context.on("weberror", (error) => broken.push(error.error().message));
        if (before) await context.addInitScript(before);
        const page = await context.newPage();
        const query = new URLSearchParams({ api: proxy.url, token: await given.sandbox.token(user), views });
        await page.goto(`${product.origin}/app?${query}`, { waitUntil: "domcontentloaded" });
        return { context, page, proxy, broken };
      };
      try {
        await run({ ...given, behind });
      } finally {
        for (const context of new Set(contexts)) await context.close();
      }
    });
}

async function openConsole({ browser }, proxy, user, path, before, options) {
  const through = { url: proxy.url };
  if (!before) return open(browser, through, user, { path, ...options });
  const visitor = await open(browser, through, user, { path: "no/such/page", ...options });
  await visitor.context.addInitScript(before);
  await visitor.page.goto(`${proxy.url}/console/${path}`, { waitUntil: "domcontentloaded" });
  return visitor;
}

/** An account of the user's, connected without any page. */
export async function connected({ sandbox, user }, connector = "gmail", instance = "") {
  await sandbox.faults({ consent: "allow" });
  const query = instance ? `?instance_id=${instance}` : "";
  const { oauth_url, connection_id } = await sandbox.api(user, `/${connector}/connect${query}`, "POST");
  await fetch(oauth_url, { headers: { accept: "text/html" } });
  const { status } = await sandbox.api(user, `/connections/${connection_id}?wait=25`);
  if (status !== "connected") throw new Error(`${connector} is ${status}`);
  await sandbox.faults({});
  return connection_id;
}

export const isList = ({ method, path }) => method === "GET" && path.startsWith("/connections?");
export const isCatalog = ({ method, path }) => method === "GET" && path.startsWith("?");
export const isStream = ({ path }) => path.startsWith("/connections/events");

export const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
