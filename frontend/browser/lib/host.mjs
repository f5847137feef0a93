// A product's own site, on a port of its own: the pages that a test gives it, and the built package.
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { join, resolve } from "node:path";

const PACKAGE = resolve(import.meta.dirname, "../../packages/client/dist");

/** Serves `pages`, by path: `{ html, headers }`. Below `/package/` are the files that `@patchbay/client` builds to. */
export async function host(pages) {
  const server = createServer(async (request, response) => {
    const path = new URL(request.url, "http://localhost").pathname;
    const page = pages[path];
    if (page) {
      response.writeHead(200, { "content-type": "text/html; charset=utf-8", ...page.headers }).end(page.html);
      return;
    }
    const name = /^\/package\/([\w./-]+\.js)$/.exec(path)?.[1];
    const file = name && (await readFile(join(PACKAGE, name)).catch(() => null));
    if (file) response.writeHead(200, { "content-type": "text/javascript; charset=utf-8" }).end(file);
    else response.writeHead(404).end();
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    origin: `http://localhost:${server.address().port}`,
    async stop() {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
}
