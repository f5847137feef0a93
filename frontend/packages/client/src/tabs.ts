/** Longer than the message of another tab takes that was posted before that tab released a lock, in milliseconds. */
const DELIVERY_MS = 30;

/** How long to wait for another tab's answer, in milliseconds. */
const PATIENCE_MS = 10_000;

/** How long another tab's answer is stored, in milliseconds: longer than a tab pauses between two fetches. */
const HOLD_MS = 2_000;

/** A request that tabs share. */
export interface SharedRequest {
  /** Names it. */
  request: string;
  /** The connection that the answer is about, if it is about one. */
  connectionId: string | undefined;
  /** Answers to requests that were sent earlier do not serve: `Date.now()`. */
  since: number;
  /** Where there are several tabs, it is sent again so much later at the soonest, in milliseconds, so that they share answers. */
  pace: number;
}

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
  /** The newest answers of the other tabs, by request. */
  readonly #answers = new Map<string, Answer>();
  /** When a connection last changed, when any did, and when all may have: `Date.now()`. */
  readonly #changedAt = new Map<string, number>();
  #anyChangedAt = 0;
  #allChangedAt = 0;
  #closed = false;

  /** Undefined where pages cannot share: on a server, in a sandboxed frame, without TLS, and where the browser blocks the site's data. */
  static async open(name: string): Promise<Tabs | undefined> {
    if (typeof document === "undefined") return undefined;
    try {
      // Rejects where access is blocked.
      await navigator.locks.query();
      return new Tabs(name, navigator.locks);
    } catch {
      return undefined;
    }
  }

  constructor(name: string, locks: LockManager) {
    this.#name = `patchbay:${name}`;
    this.#locks = locks;
    this.#channel = new BroadcastChannel(this.#name);
    this.listen((message) => this.#take((message ?? {}) as Partial<Answer>));
  }

  /** Takes what another tab posts. */
  #take(message: Partial<Answer>): void {
    const { request } = message;
    if (request === undefined) return;
    const answer = message as Answer;
    for (const waiting of [...this.#waiting]) waiting(answer);
    this.#answers.set(request, answer);
    setTimeout(() => this.#answers.get(request) === answer && this.#answers.delete(request), HOLD_MS);
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

  /** Notes when a connection has changed, or all may have. Answers to requests that were sent earlier are out of date. */
  changed(at: number, connectionId: string | undefined): void {
    this.#anyChangedAt = at;
    if (connectionId === undefined) this.#allChangedAt = at;
    else this.#changedAt.set(connectionId, at);
  }

  #lastChange(connectionId: string | undefined): number {
    if (connectionId === undefined) return this.#anyChangedAt;
    return Math.max(this.#allChangedAt, this.#changedAt.get(connectionId) ?? 0);
  }

  /** Runs `work` as soon as no other tab does, unless `signal` is aborted before. */
  lead(work: () => Promise<void>, signal: AbortSignal): Promise<void> {
    return this.#alone("", signal, work);
  }

  /**
   * The answer to a request, sent by one tab at a time. The answer to another tab's same request serves as well if that was sent
   * after the last change that is known.
   */
  once<T>({ request, connectionId, since: from, pace }: SharedRequest, send: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const since = Math.max(from, this.#lastChange(connectionId));
    const earlier = this.#answers.get(request);
    if (earlier && since > 0 && earlier.sentAt >= since) return Promise.resolve(earlier.answer as T);
    const settled = new AbortController();
    const asked = performance.now();
    let isSent = false;
    return new Promise<T>((resolve, reject) => {
      const take = ({ request: of, sentAt, answer }: Answer) => {
        if (of === request && sentAt >= since) resolve(answer as T);
      };
      this.#waiting.add(take);
      settled.signal.addEventListener("abort", () => this.#waiting.delete(take));
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
