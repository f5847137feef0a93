// What may stand between a browser and Patchbay, and what goes wrong there.
import { once } from "node:events";
import { createServer, request } from "node:http";

/** A gateway's own error page. */
export const gateway = (status) => ({ status, type: "text/html", body: "<h1>A gateway is in the way</h1>" });

/** A problem of Patchbay's. */
export const problem = (status, code, headers = {}) => ({
  status,
  type: "application/problem+json",
  body: JSON.stringify({ code, title: code, detail: `the detail of ${code}` }),
  headers,
});

/** JSON that is not Patchbay's. */
export const otherJson = { status: 200, type: "application/json", body: JSON.stringify({ status: "ok" }) };

/**
 * An HTTP proxy in front of a sandbox. `fate` decides about each request, given its `method` and `path` (the API's without its
 * prefix): `pass`, `cut` (no answer), `hang` (none ever), `stale` (the last answer again), an answer of its own, or `{ late }`
 * milliseconds. What passed is counted in `seen`.
 */
export class Proxy {
  fate = () => "pass";
  seen = [];
  #target;
  #server;
  /** The event streams: each response to a browser, with the service's. */
  #streams = new Map();
  #answers = new Map();

  static async start(target) {
    const proxy = new Proxy();
    proxy.#target = target;
    proxy.#server = createServer((incoming, outgoing) => proxy.#take(incoming, outgoing));
    proxy.#server.listen(0, "127.0.0.1");
    await once(proxy.#server, "listening");
    return proxy;
  }

  /** Where it stands; set once the sandbox is there. */
  set target(url) {
    this.#target = url;
  }

  get url() {
    return `http://localhost:${this.#server.address().port}`;
  }

  /** How many requests were of this method and path, a part of it. */
  count(text) {
    return this.seen.filter(({ method, path }) => `${method} ${path}`.includes(text)).length;
  }

  get streams() {
    return this.#streams.size;
  }

  cutStreams() {
    for (const stream of this.#streams.keys()) stream.destroy();
  }

  /** Holds back what the service writes into the event streams while `run` runs, then delivers it in one go. */
  async holdingStreams(run) {
    const held = [...this.#streams];
    for (const [outgoing, answer] of held) answer.unpipe(outgoing);
    await run();
    for (const [outgoing, answer] of held) answer.pipe(outgoing);
  }

  async stop() {
    const closed = once(this.#server, "close");
    this.#server.close();
    this.#server.closeAllConnections();
    await closed;
  }

  #take(incoming, outgoing) {
    const path = incoming.url.replace("/api/v1/connectors", "");
    const isApi = path !== incoming.url;
    const one = { method: incoming.method, path, isApi, key: incoming.headers["idempotency-key"], at: performance.now() };
    if (isApi && one.method !== "OPTIONS") this.seen.push(one);
    const fate = one.method === "OPTIONS" ? "pass" : this.fate(one);
    const before = this.#answers.get(`${one.method} ${path}`);
    if (fate === "cut") outgoing.destroy();
    else if (fate === "hang") return;
    else if (fate.status) outgoing.writeHead(fate.status, { ...this.#cors(incoming), "content-type": fate.type, ...fate.headers }).end(fate.body);
    else if (fate === "stale" && before) outgoing.writeHead(200, { ...this.#cors(incoming), "content-type": "application/json" }).end(before);
    else this.#pass(incoming, outgoing, one, fate.late ?? 0);
  }

  /** A gateway that answers in the service's place lets the same pages read it. */
  #cors(incoming) {
    const { origin } = incoming.headers;
    return origin ? { "access-control-allow-origin": origin, "access-control-expose-headers": "retry-after" } : {};
  }

  #pass(incoming, outgoing, { method, path }, late) {
    const headers = { ...incoming.headers, "accept-encoding": "identity" };
    const onward = request(this.#target + incoming.url, { method, headers }, (answer) => {
      if (answer.headers["content-type"]?.startsWith("text/event-stream")) {
        this.#streams.set(outgoing, answer);
        outgoing.on("close", () => this.#streams.delete(outgoing));
        outgoing.writeHead(answer.statusCode, answer.headers);
        outgoing.flushHeaders();
        answer.pipe(outgoing);
        return;
      }
      const chunks = [];
      answer.on("data", (chunk) => chunks.push(chunk));
      answer.on("end", () => {
        const body = Buffer.concat(chunks);
        if (answer.statusCode === 200) this.#answers.set(`${method} ${path}`, body);
        setTimeout(() => outgoing.writeHead(answer.statusCode, answer.headers).end(body), late);
      });
    });
    onward.on("error", () => outgoing.destroy());
    outgoing.on("close", () => onward.destroy());
    incoming.pipe(onward);
  }
}
