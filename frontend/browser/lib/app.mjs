// The product's page of `app`, as Vite builds it for production, and as its dev server serves it.
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { build, createServer } from "vite";

const ROOT = resolve(import.meta.dirname, "../app");

/** The pages of the production build, by path, for `host`. */
export async function productionPages() {
  const outDir = await mkdtemp(join(tmpdir(), "patchbay-app-"));
  try {
    await build({ root: ROOT, logLevel: "error", build: { outDir, emptyOutDir: true } });
    const pages = { "/app": { html: await readFile(join(outDir, "index.html"), "utf8") } };
    for (const name of await readdir(join(outDir, "assets"))) {
      const type = name.endsWith(".css") ? "text/css" : "text/javascript";
      pages[`/assets/${name}`] = { html: await readFile(join(outDir, "assets", name)), headers: { "content-type": type } };
    }
    return pages;
  } finally {
    await rm(outDir, { recursive: true, force: true });
  }
}

/** Vite's dev server: its address, and a way to end it. */
export async function devServer() {
  const server = await createServer({ root: ROOT, logLevel: "error", server: { host: "127.0.0.1", port: 0 } });
  await server.listen();
  return { origin: `http://127.0.0.1:${server.httpServer.address().port}`, stop: () => server.close() };
}
