import type { ConnectionEvent } from "./types.js";
import type { Http } from "./http.js";
import { backoff } from "./backoff.js";
import { fits } from "./shape.js";
import { SseParser, type SseMessage } from "./sse.js";
import { Tabs } from "./tabs.js";

/**
 * How news comes: `live` from the event stream; `polling` while there is no stream; `connecting` before the first;
 * `expired` while the user has to sign in again, `idle` while nobody listens.
 */
export type StreamState = "idle" | "connecting" | "live" | "polling" | "expired";

/** What a listener is told. */
export type Notice =
  /** A connection has changed. */
  | { type: "event"; event: ConnectionEvent }
  /**
   * Something may have changed that no event tells of: fetch again. `start`: the stream has begun; `poll`: there is no stream;
   * `lost`: the service no longer has the last event, as after a restored backup, so versions may be lower than before.
   */
  | { type: "resync"; reason: "start" | "poll" | "lost" }
  | { type: "state"; state: StreamState };

/** Timeouts and intervals in milliseconds; tests have shorter ones. */
export interface StreamTimes {
  /** A stream that does not begin within this time counts as stalled: a proxy collects it instead of passing it on. */
  stall: number;
  /** Without a byte for so long the stream counts as broken. The service sends one every 5 s. */
  silence: number;
  /** The first wait after a failure; doubled by each further one. */
  first: number;
  /** The longest wait. */
  longest: number;
  /** How often to poll while there is no stream. */
  poll: number;
  /** After how long a hidden page lets its stream go: browsers allow six connections to an origin, in all tabs. */
  hidden: number;
}

/** The times of a browser's page. */
export const STREAM_TIMES: StreamTimes = { stall: 4_000, silence: 12_000, first: 1_000, longest: 30_000, poll: 10_000, hidden: 60_000 };

/** What the tab with the stream posts to the others; a tab that has none posts null, and is answered. */
interface Post {
  notice?: Notice;
  state: StreamState;
  /** The last event's id, and the one before this post. */
  id: string | undefined;
  before: string | undefined;
  /** When the tab received what it posts: `Date.now()`. */
  at: number;
}

/**
 * The user's event stream, one however many listen and in however many tabs, open while somebody does.
 *
 * It is read by fetch, for the token belongs in a header. It begins again after the last event that was read, so that
 * none is missed, and while it cannot be had, listeners are told to look from time to time instead.
 *
 * One tab reads the stream and posts to the others what it reads. When it is closed, or has been hidden for a while,
 * another one goes on after the last event. A tab that receives nothing polls.
 */
export class EventStream {
  readonly #http: Http;
  readonly #times: StreamTimes;
  readonly #listeners = new Set<(notice: Notice) => void>();
  #state: StreamState = "idle";
  #run: AbortController | undefined;
  /** Of the wait for the lead. */
  #waiting: AbortController | undefined;
  #reading: AbortController | undefined;
  #lastId: string | undefined;
  #retry = 1_000;
  #failures = 0;
  #wake: (() => void) | undefined;
  #paused = false;
  #leading = false;
  /** Runs while another tab's stream is followed. */
  #following: ReturnType<typeof setTimeout> | undefined;
  /** The user's tabs, while this one listens. */
  tabs: Tabs | undefined;
  /** When the last notice was received, by whichever tab has the stream: `Date.now()`. */
  noticedAt = 0;

  constructor(http: Http, times: StreamTimes = STREAM_TIMES) {
    this.#http = http;
    this.#times = times;
  }

  /** How news comes at the moment. */
  get state(): StreamState {
    return this.#state;
  }

  /** Tells `listener` of everything from now on; the answer ends that. */
  subscribe(listener: (notice: Notice) => void): () => void {
    // A function of its own, so that the same one may be given twice.
    const own = (notice: Notice) => listener(notice);
    this.#listeners.add(own);
    if (!this.#run) this.#start();
    return () => {
      this.#listeners.delete(own);
      if (this.#listeners.size === 0) this.#stop();
    };
  }

  #tell(notice: Notice, at = Date.now()): void {
    if (notice.type !== "state") this.noticedAt = at;
    for (const listener of [...this.#listeners]) listener(notice);
  }

  #become(state: StreamState): void {
    if (this.#state === state) return;
    this.#state = state;
    this.#tell({ type: "state", state });
  }

  /** Posts how it is to the other tabs, where this one has the stream. */
  #post(notice?: Notice, before = this.#lastId): void {
    if (!this.#leading || !this.tabs) return;
    const post: Post = { state: this.#state, id: this.#lastId, before, at: this.noticedAt };
    this.tabs.post(notice ? { ...post, notice } : post);
  }

  #start(): void {
    const run = new AbortController();
    this.#run = run;
    this.#paused = false;
    this.#become("connecting");
    const session = () => {
      // The stream is the user's whose token has opened it.
      if (this.#http.session.userChanged) this.#reading?.abort();
      this.#hurry();
    };
    const ends = [this.#http.session.subscribe(session), this.#watchPage(), this.#poll()];
    run.signal.addEventListener("abort", () => ends.forEach((end) => end()));
    void this.#loop(run.signal);
  }

  #stop(): void {
    this.#run?.abort();
    this.#run = undefined;
    this.#reading?.abort();
    this.#hurry();
    clearTimeout(this.#following);
    this.#following = undefined;
    this.tabs?.close();
    this.tabs = undefined;
    // Whoever listens next begins with a look at everything.
    this.#lastId = undefined;
    this.#become("idle");
  }

  /** Ends a wait. */
  #hurry(): void {
    this.#waiting?.abort();
    this.#wake?.();
  }

  async #loop(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      if (this.#http.session.expired) {
        this.#become("expired");
        await this.#sleep(undefined);
      } else if (this.#paused) {
        await this.#sleep(undefined);
      } else {
        await this.#join(signal);
        if (!signal.aborted) await this.#lead(signal);
      }
    }
  }

  /** Listens to the user's other tabs, once it is known who that is. A token that names nobody tells no users apart. */
  async #join(signal: AbortSignal): Promise<void> {
    await this.#http.compareUser();
    const { user } = this.#http.session;
    if (this.tabs || !user || signal.aborted) return;
    this.tabs = Tabs.open(`${this.#http.base.href} ${user}`);
    this.tabs?.listen((message) => {
      if (message === null) this.#post();
      else if ("state" in (message as object)) this.#follow(message as Post);
    });
    this.tabs?.post(null);
  }

  /** Reads the stream while no other tab does. */
  async #lead(signal: AbortSignal): Promise<void> {
    const { tabs } = this;
    if (!tabs) return this.#readOn(signal);
    this.#waiting = new AbortController();
    const stalled = setTimeout(() => this.#state === "connecting" && this.#stall(), this.#times.stall);
    const work = async () => {
      clearTimeout(stalled);
      clearTimeout(this.#following);
      this.#following = undefined;
      this.#leading = true;
      this.#post();
      await this.#readOn(signal);
      this.#leading = false;
    };
    await tabs.lead(work, this.#waiting.signal).catch(() => undefined);
    clearTimeout(stalled);
  }

  /** Reads the stream again and again, or once while there is no knowing of other tabs. */
  async #readOn(signal: AbortSignal): Promise<void> {
    do {
      const worked = await this.#read(signal);
      if (signal.aborted) return;
      this.#failures = worked ? 0 : this.#failures + 1;
      if (this.#http.session.expired) return;
      this.#become("polling");
      this.#post();
      if (!this.#paused) await this.#sleep(this.#pause());
    } while (this.tabs && !signal.aborted && !this.#paused && !this.#http.session.expired);
  }

  #pause(): number {
    const { first, longest } = this.#times;
    return this.#failures === 0 ? backoff(1, this.#retry, longest) : backoff(this.#failures, first, longest);
  }

  #sleep(milliseconds: number | undefined): Promise<void> {
    return new Promise((resolve) => {
      const timer = milliseconds === undefined ? undefined : setTimeout(() => this.#wake?.(), milliseconds);
      this.#wake = () => {
        clearTimeout(timer);
        this.#wake = undefined;
        resolve();
      };
    });
  }

  /** Reads one stream to its end. Whether it was one. */
  async #read(signal: AbortSignal): Promise<boolean> {
    const reading = new AbortController();
    this.#reading = reading;
    let ready = false;
    let silence: ReturnType<typeof setTimeout> | undefined;
    const alive = () => {
      clearTimeout(silence);
      silence = setTimeout(() => {
        if (ready) this.#stall();
        reading.abort();
      }, this.#times.silence);
    };
    // It is read on: what a proxy holds back it may deliver later.
    const stalled = setTimeout(() => this.#stall(), this.#times.stall);
    try {
      alive();
      const headers: Record<string, string> = { accept: "text/event-stream" };
      if (this.#lastId !== undefined) headers["last-event-id"] = this.#lastId;
      const response = await this.#http.open("/connections/events", { headers, signal: reading.signal });
      const reader = response.body?.getReader();
      const decoder = new TextDecoder();
      const parser = new SseParser();
      for (;;) {
        const chunk = await reader?.read();
        if (!chunk || chunk.done || signal.aborted) return ready;
        alive();
        for (const message of parser.push(decoder.decode(chunk.value, { stream: true }))) {
          if (message.event === "ready") {
            ready = true;
            clearTimeout(stalled);
          }
          this.#take(message);
        }
        this.#post();
      }
    } catch {
      // Whatever it was, coming again later is the answer; an expired session is known to the session.
      return ready;
    } finally {
      clearTimeout(silence);
      clearTimeout(stalled);
      reading.abort();
    }
  }

  #take(message: SseMessage): void {
    const before = this.#lastId;
    if (message.id !== undefined) this.#lastId = message.id;
    if (message.retry !== undefined) this.#retry = message.retry;
    let notice: Notice | undefined;
    if (message.event === "ready") {
      this.#become("live");
      // What was read before the stream began may be out of date by what happened in between. The service says whether it
      // goes on after the last event; it does not where it has no such event any more, as after a restored backup.
      const { resumed = before !== undefined } = JSON.parse(message.data) as { resumed?: boolean };
      if (!resumed) notice = { type: "resync", reason: before === undefined ? "start" : "lost" };
    } else if (message.event === "connection") {
      const event: unknown = JSON.parse(message.data);
      if (fits(event, "ConnectionEvent")) notice = { type: "event", event: event as ConnectionEvent };
    }
    if (!notice) return;
    this.#tell(notice);
    this.#post(notice, before);
  }

  /** Takes what the tab with the stream posts. */
  #follow({ notice, state, id, before, at }: Post): void {
    // What is still on its way from the tab that had the stream before is read again.
    if (this.#leading) return;
    const missed = this.#lastId !== (notice ? before : id);
    this.#lastId = id;
    clearTimeout(this.#following);
    this.#following = setTimeout(() => {
      this.#following = undefined;
      this.#stall();
    }, this.#times.silence);
    this.#become(state);
    if (notice) this.#tell(notice, at);
    if (missed && notice?.type !== "resync") this.#tell({ type: "resync", reason: "start" });
  }

  /** Polls at once, and goes on doing so. */
  #stall(): void {
    this.#become("polling");
    this.#resync();
  }

  #resync(): void {
    const notice: Notice = { type: "resync", reason: "poll" };
    if (this.#paused) return;
    this.#tell(notice);
    this.#post(notice);
  }

  /** Says to look again, while there is no stream, unless another tab does. */
  #poll(): () => void {
    const timer = setInterval(() => {
      if (this.#state !== "live" && this.#state !== "expired" && !this.#following) this.#resync();
    }, this.#times.poll);
    return () => clearInterval(timer);
  }

  /** Comes again at once when the page is seen again or the network is back. */
  #watchPage(): () => void {
    if (typeof document === "undefined") return () => {};
    let timer: ReturnType<typeof setTimeout> | undefined;
    const seen = () => {
      clearTimeout(timer);
      if (document.visibilityState === "hidden") {
        timer = setTimeout(() => {
          this.#paused = true;
          this.#waiting?.abort();
          this.#reading?.abort();
        }, this.#times.hidden);
      } else {
        this.#paused = false;
        this.#wake?.();
        // Another user may have signed in meanwhile, in another tab. No request may follow that would notice.
        void this.#http.compareUser();
      }
    };
    // A tab that was opened in the background has never been seen.
    if (document.visibilityState === "hidden") seen();
    const online = () => this.#wake?.();
    document.addEventListener("visibilitychange", seen);
    window.addEventListener("online", online);
    return () => {
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
      window.removeEventListener("online", online);
    };
  }
}
