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
  /** What waits in this tab for an answer. */
  readonly #waiting = new Set<(answer: Answer) => void>();
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
   * `since` then. Where there are several tabs, it is sent again `pace` later at the soonest, in milliseconds, so that they share answers.
   */
  once<T>(request: string, since: number, pace: number, send: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const settled = new AbortController();
    const asked = performance.now();
    let isSent = false;
    return new Promise<T>((resolve, reject) => {
      const take = ({ request: of, sentAt, answer }: Partial<Answer>) => {
        if (of === request && Number(sentAt) >= since) resolve(answer as T);
      };
      const leave = this.listen((message) => take((message ?? {}) as Partial<Answer>));
      this.#waiting.add(take);
      settled.signal.addEventListener("abort", () => {
        this.#waiting.delete(take);
        leave();
      });
      const own = async () => {
        // The answer may still be on its way here.
        if (performance.now() - asked > DELIVERY_MS) await pauseInSight(DELIVERY_MS);
        if (settled.signal.aborted) return;
        isSent = true;
        const sentAt = Date.now();
        const answer = await send();
        resolve(answer);
        if (!(await this.#hasOthers(request))) return;
        const message: Answer = { request, sentAt, answer };
        this.post(message);
        for (const waiting of [...this.#waiting]) waiting(message);
        await pauseInSight(pace);
      };
      this.#alone(request, AbortSignal.any(signal ? [settled.signal, signal] : [settled.signal]), own).catch(reject);
      void sleep(PATIENCE_MS, settled.signal).then(() => {
        if (!isSent) send().then(resolve, reject);
      });
    }).finally(() => settled.abort());
  }

  /** Whether other tabs are there to lead, or wait to send this request. */
  async #hasOthers(request: string): Promise<boolean> {
    const { held = [], pending = [] } = await this.#locks.query();
    const leads = [...held, ...pending].filter(({ name }) => name === this.#name);
    return leads.length > 1 || pending.some(({ name }) => name === this.#name + request);
  }

  #alone<T>(what: string, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    return this.#locks.request(this.#name + what, { signal }, work) as Promise<T>;
  }

  close(): void {
    this.#closed = true;
    this.#channel.close();
  }
}

/** Waits on a visible page only: on a hidden one a browser lets timers wait for a minute, and the other tabs with them. */
async function pauseInSight(milliseconds: number): Promise<void> {
  if (document.visibilityState === "visible") await sleep(milliseconds);
}

/** Never resolves once `signal` is aborted. */
function sleep(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => clearTimeout(timer));
  });
}
