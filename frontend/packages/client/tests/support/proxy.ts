/** What may stand between a browser and Patchbay, and what can go wrong there. */
import { once } from "node:events";
import { createServer, request, type IncomingHttpHeaders, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { inject } from "vitest";

/**
 * What becomes of a request: `pass` it on; `cut` it without an answer; `hang`: never answer; `lose` the answer; answer with this status, as a
 * gateway does; with this status and body; deliver the answer late, in milliseconds; or `stale`: answer as last time.
 */
export type Fate = "pass" | "cut" | "hang" | "lose" | "stale" | number | Canned | { late: number };

/** An answer that does not come from the service. */
export interface Canned {
  status: number;
  type: string;
  body: unknown;
  headers?: Record<string, string>;
}

/** A request as it came. */
export interface Seen {
  method: string;
  path: string;
  lastEventId: string | undefined;
  idempotencyKey: string | undefined;
}

/** An HTTP proxy in front of the sandbox's Patchbay that records requests and simulates failures. */
export class Proxy {
  readonly seen: Seen[] = [];
  /** Decides about each request. */
  fate: (seen: Seen) => Fate = () => "pass";
  /** Replaces the `Last-Event-ID` header of each request. */
  lastEventId: string | undefined;
  readonly #server: Server;
  readonly #streams = new Set<ServerResponse>();
  readonly #answers = new Map<string, Buffer>();

  constructor() {
    this.#server = createServer((incoming, outgoing) => this.#take(incoming, outgoing));
  }

  static async start(): Promise<Proxy> {
    const proxy = new Proxy();
    proxy.#server.listen(0, "127.0.0.1");
    await once(proxy.#server, "listening");
    started.push(proxy);
    return proxy;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** How many event streams are open. */
  get streams(): number {
    return this.#streams.size;
  }

  /** How many requests' paths have contained this. */
  count(part: string): number {
    return this.seen.filter((one) => `${one.method} ${one.path}`.includes(part)).length;
  }

  /** Breaks all event streams off. */
  cutStreams(): void {
    for (const stream of this.#streams) stream.destroy();
  }

  async close(): Promise<void> {
    const closed = once(this.#server, "close");
    this.#server.close();
    this.#server.closeAllConnections();
    await closed;
  }

  #take(incoming: IncomingMessage, outgoing: ServerResponse): void {
    const path = (incoming.url ?? "").replace("/api/v1/connectors", "");
    const lastEventId = incoming.headers["last-event-id"] as string | undefined;
    const idempotencyKey = incoming.headers["idempotency-key"] as string | undefined;
    const seen = { method: incoming.method ?? "", path, lastEventId, idempotencyKey };
    this.seen.push(seen);
    const fate = this.fate(seen);
    const before = this.#answers.get(`${seen.method} ${seen.path}`);
    if (fate === "hang") return;
    if (fate === "cut") {
      outgoing.destroy();
    } else if (typeof fate === "number") {
      outgoing.writeHead(fate, { "content-type": "text/html" }).end("<h1>A proxy is in the way</h1>");
    } else if (typeof fate === "object" && "status" in fate) {
      outgoing.writeHead(fate.status, { "content-type": fate.type, ...fate.headers }).end(JSON.stringify(fate.body));
    } else if (fate === "stale" && before) {
      outgoing.writeHead(200, { "content-type": "application/json" }).end(before);
    } else {
      this.#pass(incoming, outgoing, fate === "lose", typeof fate === "object" ? fate.late : 0);
    }
  }

  #pass(incoming: IncomingMessage, outgoing: ServerResponse, lose: boolean, late: number): void {
    const { method, url } = incoming;
    // Uncompressed, so that the proxy can replay the response.
    const headers: IncomingHttpHeaders = { ...incoming.headers, "accept-encoding": "identity" };
    if (this.lastEventId !== undefined) headers["last-event-id"] = this.lastEventId;
    const onward = request(inject("patchbay") + url, { method, headers }, (answer) => {
      if (lose) {
        answer.resume().on("end", () => outgoing.destroy());
        return;
      }
      if (answer.headers["content-type"]?.startsWith("text/event-stream")) {
        this.#streams.add(outgoing);
        outgoing.on("close", () => this.#streams.delete(outgoing));
      }
      if (this.#streams.has(outgoing)) {
        outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
        outgoing.flushHeaders();
        answer.pipe(outgoing);
        return;
      }
      const chunks: Buffer[] = [];
      answer.on("data", (chunk: Buffer) => chunks.push(chunk));
      answer.on("end", () => {
        const body = Buffer.concat(chunks);
        if (answer.statusCode === 200) this.#answers.set(`${method} ${url?.replace("/api/v1/connectors", "")}`, body);
        setTimeout(() => outgoing.writeHead(answer.statusCode ?? 502, answer.headers).end(body), late);
      });
    });
    onward.on("error", () => outgoing.destroy());
    outgoing.on("close", () => onward.destroy());
    incoming.pipe(onward);
  }
}

const started: Proxy[] = [];

/** Closes every proxy that a test has started. */
export async function closeAll(): Promise<void> {
  await Promise.all(started.splice(0).map((proxy) => proxy.close()));
}
