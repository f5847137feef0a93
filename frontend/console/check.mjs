/**
 * Whether `dist`, which the service's program is built with, is what the sources build to; and how much of it a user
 * downloads. Ends with 1 where it is not, or is more than is meant.
 */
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import { gzipSync } from "node:zlib";
import { build } from "vite";

const COMMITTED = join(import.meta.dirname, "dist");
/** In bytes, compressed. */
const MOST = { ".js": 115_000, ".css": 7_000, ".svg": 1_000, ".html": 1_000 };

const folder = await mkdtemp(join(tmpdir(), "patchbay-console-"));
try {
  await build({ root: import.meta.dirname, logLevel: "warn", build: { outDir: folder, emptyOutDir: true } });
  const [built, committed] = await Promise.all([filesIn(folder), filesIn(COMMITTED)]);
  const stale = [...new Set([...built.keys(), ...committed.keys()])].filter((name) => {
    const [one, other] = [built.get(name), committed.get(name)];
    return !one || !other || !one.equals(other);
  });
  if (stale.length > 0) {
    console.error(`frontend/console/dist is not what the sources build to: ${stale.join(", ")}`);
    console.error("npm run build && npm run build -w console, in frontend, and commit it");
    process.exitCode = 1;
  }
  for (const [kind, most] of Object.entries(MOST)) {
    const files = [...built].filter(([name]) => extname(name) === kind);
    const size = files.reduce((sum, [, data]) => sum + gzipSync(data).length, 0);
    console.log(`the console's ${kind}: ${size} bytes, at most ${most}`);
    if (size > most) process.exitCode = 1;
  }
} finally {
  await rm(folder, { recursive: true, force: true });
}

async function filesIn(root) {
  const entries = await readdir(root, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  const read = files.map(async (file) => [file.slice(root.length + 1), await readFile(file)]);
  return new Map(await Promise.all(read));
}
