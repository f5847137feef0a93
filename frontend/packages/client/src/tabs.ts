/** Longer than the message of another tab takes that was posted before that tab released a lock, in milliseconds. */
const DELIVERY_MS = 30;

/** How long to wait for another tab's answer, in milliseconds. */
const PATIENCE_MS = 10_000;

/** The answer to a request of another tab's. */
interface Answer {
  request: string;
  /** When it was sent: `Date.now()`. */
  sentAt: number;
  answer: unknown;
}

/** The pages of one user in all tabs of a browser: one of them leads, each receives what the others post, and they share requests. */
export class Tabs {
  readonly #name: string;
  readonly #locks: LockManager;
  readonly #channel: BroadcastChannel;
  #closed = false;

  /** Undefined where pages do not know of each other: on a server, in a sandboxed frame, and on a page served without TLS. */
  static open(name: string): Tabs | undefined {
    const isPage = typeof document !== "undefined" && typeof BroadcastChannel !== "undefined" && origin !== "null";
    const locks = isPage ? (navigator.locks as LockManager | undefined) : undefined;
    return locks && new Tabs(name, locks);
  }

  constructor(name: string, locks: LockManager) {
    this.#name = `patchbay:${name}`;
    this.#locks = locks;
    this.#channel = new BroadcastChannel(this.#name);
  }

  /** Posts a message to the other tabs. */
  post(message: unknown): void {
    if (!this.#closed) this.#channel.postMessage(message);
  }

  /** Calls `listener` with each message of the other tabs; the returned function ends that. */
  listen(listener: (message: unknown) => void): () => void {
    const take = ({ data }: MessageEvent) => listener(data);
    this.#channel.addEventListener("message", take);
    return () => this.#channel.removeEventListener("message", take);
  }

  /** Runs `work` as soon as no other tab does, unless `signal` is aborted before. */
  lead(work: () => Promise<void>, signal: AbortSignal): Promise<void> {
    return this.#alone("", signal, work);
  }

  /**
   * The answer to a request, sent by one tab at a time. The answer to another tab's same request serves as well if that was sent
   * `since` then.
   */
  async once<T>(request: string, since: number, send: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const settled = new AbortController();
    let leave = () => {};
    const others = new Promise<T>((resolve) => {
      leave = this.listen((message) => {
        const { request: of, sentAt, answer } = message as Partial<Answer>;
        if (of === request && Number(sentAt) >= since) resolve(answer as T);
      });
    });
    const asked = performance.now();
    let isSent = false;
    const own = this.#alone(request, AbortSignal.any(signal ? [settled.signal, signal] : [settled.signal]), async () => {
      if (performance.now() - asked > DELIVERY_MS) await Promise.race([others, sleep(DELIVERY_MS)]);
      if (settled.signal.aborted) return others;
      isSent = true;
      const sentAt = Date.now();
      const answer = await send();
      const { pending = [] } = await this.#locks.query();
      if (pending.some(({ name }) => name === this.#name + request)) this.post({ request, sentAt, answer } satisfies Answer);
      return answer;
    });
    const late = sleep(PATIENCE_MS, settled.signal).then(() => (isSent ? own : send()));
    return Promise.race([others, own, late]).finally(() => {
      settled.abort();
      leave();
    });
  }

  #alone<T>(what: string, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    return this.#locks.request(this.#name + what, { signal }, work) as Promise<T>;
  }

  close(): void {
    this.#closed = true;
    this.#channel.close();
  }
}

/** Never resolves once `signal` is aborted. */
function sleep(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => clearTimeout(timer));
  });
}
