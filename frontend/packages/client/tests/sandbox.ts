/** Starts `patchbay sandbox` for all tests: the service as it is, over a Nango that is made up. */
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { TestProject } from "vitest/node";

declare module "vitest" {
  export interface ProvidedContext {
    patchbay: string;
    nango: string;
  }
}

const BUILT = fileURLToPath(new URL("../../../../target/debug/patchbay", import.meta.url));
const FREE_PORT = fileURLToPath(new URL("../../../../scripts/free-port", import.meta.url));

/** The made-up provider tells in its answer whose account it is. */
const CATALOG = `
[[connector]]
slug = "gmail"
account = { id = "/raw/account/id", name = "/raw/account/name" }
`;

/** How long it may take to start, in milliseconds: it makes a database of its own. */
const PATIENCE = 60_000;

export default async function start(project: TestProject): Promise<() => Promise<void>> {
  const folder = await mkdtemp(join(tmpdir(), "patchbay-"));
  // PostgreSQL runs as another user when this is run as root.
  await chmod(folder, 0o755);
  const [port = "", nangoPort = ""] = execFileSync(FREE_PORT, ["2"], { encoding: "utf8" }).split("\n");
  const program = process.env["PATCHBAY_BIN"] ?? BUILT;
  const catalog = join(folder, "connectors.toml");
  await writeFile(catalog, CATALOG);
  const own = { PORT: port, SANDBOX_PORT: nangoPort, CATALOG: "all", CATALOG_FILE: catalog, DATABASE_URL: "" };
  const env = { ...process.env, ...own };
  const child = spawn(program, ["sandbox"], { cwd: folder, env, stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  for (const output of [child.stdout, child.stderr]) {
    output.on("data", (chunk: Buffer) => (said = (said + chunk.toString()).slice(-2_000)));
  }
  child.on("error", (error) => (said += error.message));
  const patchbay = `http://localhost:${port}`;
  const end = Date.now() + PATIENCE;
  while (!(await isReady(patchbay))) {
    if (child.exitCode !== null || Date.now() > end) {
      throw new Error(`${program} sandbox has not started; build it with cargo build, or set PATCHBAY_BIN. ${said}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  project.provide("patchbay", patchbay);
  project.provide("nango", `http://localhost:${nangoPort}`);
  return async () => {
    const ended = once(child, "exit");
    child.kill("SIGTERM");
    await ended;
    await rm(folder, { recursive: true, force: true });
  };
}

async function isReady(patchbay: string): Promise<boolean> {
  return fetch(`${patchbay}/readyz`).then(
    (answer) => answer.ok,
    () => false,
  );
}
