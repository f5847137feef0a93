// A `patchbay sandbox` of its own for one file of tests: its own ports, folder and PostgreSQL.
import { execFileSync, spawn } from "node:child_process";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { once } from "node:events";

const PROGRAM = process.env.PATCHBAY_BIN ?? resolve(import.meta.dirname, "../../../target/debug/patchbay");
const FREE_PORT = resolve(import.meta.dirname, "../../../scripts/free-port");

/** How long it may take to start, PostgreSQL and all, in milliseconds. */
const PATIENCE = 120_000;

export class Sandbox {
  #child;
  #folder;
  #said = "";

  /** Starts it; `origins` are those of the product's own pages, `settings` whatever else is set. */
  static async start({ origins = [], settings = {} } = {}) {
    const sandbox = new Sandbox();
    const [port, controlsPort] = execFileSync(FREE_PORT, ["2"], { encoding: "utf8" }).split("\n");
    sandbox.url = `http://localhost:${port}`;
    sandbox.controls = `http://localhost:${controlsPort}`;
    sandbox.#folder = await mkdtemp(join(tmpdir(), "patchbay-browser-"));
    // PostgreSQL's programs refuse root and run as another user, who has to get in.
    await chmod(sandbox.#folder, 0o755);
    sandbox.#child = spawn(PROGRAM, ["sandbox"], {
      cwd: sandbox.#folder,
      env: {
        PATH: process.env.PATH,
        PORT: port,
        SANDBOX_PORT: controlsPort,
        CORS_ALLOWED_ORIGINS: origins.join(","),
        RUST_LOG: "warn",
        // Tests know which connectors there are.
        CATALOG: "all",
        ...settings,
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    for (const output of [sandbox.#child.stdout, sandbox.#child.stderr]) {
      output.on("data", (data) => (sandbox.#said += data));
    }
    await sandbox.#ready();
    return sandbox;
  }

  async #ready() {
    const until = Date.now() + PATIENCE;
    while (Date.now() < until) {
      if (this.#child.exitCode !== null) throw new Error(`the sandbox has ended: ${this.#said}`);
      const answer = await fetch(`${this.url}/readyz`).catch(() => null);
      if (answer?.ok) return;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    await this.stop();
    throw new Error(`the sandbox did not become ready: ${this.#said}`);
  }

  async stop() {
    if (this.#child.exitCode === null) {
      const ended = once(this.#child, "exit");
      this.#child.kill("SIGTERM");
      await ended;
    }
    await rm(this.#folder, { recursive: true, force: true });
  }

  /** The newest of what it has written. */
  get said() {
    return this.#said.slice(-4_000);
  }

  /** Plays these faults from now on, and no others. */
  async faults(faults) {
    await this.#control("PUT", "faults", faults);
  }

  /** What Nango holds, the newest first. */
  connections() {
    return this.#control("GET", "connections");
  }

  /** A user's token. */
  async token(user) {
    return (await this.#control("POST", "token", { user })).token;
  }

  /** The API, as a user. */
  async api(user, path, method = "GET") {
    const headers = { authorization: `Bearer ${await this.token(user)}` };
    const answer = await fetch(`${this.url}/api/v1/connectors${path}`, { method, headers });
    return answer.json();
  }

  async #control(method, what, body) {
    const headers = body === undefined ? {} : { "content-type": "application/json" };
    const answer = await fetch(`${this.controls}/sandbox/${what}`, { method, headers, body: JSON.stringify(body) });
    if (!answer.ok) throw new Error(`${method} ${what}: ${answer.status} ${await answer.text()}`);
    return answer.json();
  }
}

/** Asks again until it is so, at most as long as a start may take. */
export async function eventually(what, isSo) {
  const until = Date.now() + PATIENCE;
  while (!(await isSo())) {
    if (Date.now() > until) throw new Error(`it did not come true: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
