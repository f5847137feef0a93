import type { ConnectionEvent } from "./types.js";
import type { Http } from "./http.js";
import { backoff } from "./backoff.js";
import { fits } from "./shape.js";
import { SseParser } from "./sse.js";

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

/** Patience, in milliseconds; tests have less. */
export interface StreamTimes {
  /** Without a byte for so long the stream counts as broken. The service sends one every 15 s. */
  silence: number;
  /** The first wait after a failure; doubled by each further one. */
  first: number;
  /** The longest wait. */
  longest: number;
  /** How often to look while there is no stream. */
  poll: number;
  /** After how long a hidden page lets its stream go: browsers allow six connections to an origin, in all tabs. */
  hidden: number;
}

/** What a browser meets in practice. */
export const STREAM_TIMES: StreamTimes = { silence: 40_000, first: 1_000, longest: 30_000, poll: 10_000, hidden: 60_000 };

/**
 * The user's event stream, one however many listen, open while somebody does.
 *
 * It is read by fetch, for the token belongs in a header. It begins again after the last event that was read, so that
 * none is missed, and while it cannot be had, listeners are told to look from time to time instead.
 */
export class EventStream {
  readonly #http: Http;
  readonly #times: StreamTimes;
  readonly #listeners = new Set<(notice: Notice) => void>();
  #state: StreamState = "idle";
  #run: AbortController | undefined;
  #reading: AbortController | undefined;
  #lastId: string | undefined;
  #retry = 1_000;
  #wake: (() => void) | undefined;
  #paused = false;

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

  #tell(notice: Notice): void {
    for (const listener of [...this.#listeners]) listener(notice);
  }

  #become(state: StreamState): void {
    if (this.#state === state) return;
    this.#state = state;
    this.#tell({ type: "state", state });
  }

  #start(): void {
    const run = new AbortController();
    this.#run = run;
    this.#paused = false;
    this.#become("connecting");
    const session = () => {
      // The stream is the user's whose token has opened it.
      if (this.#http.session.userChanged) this.#reading?.abort();
      this.#wake?.();
    };
    const ends = [this.#http.session.subscribe(session), this.#watchPage(), this.#poll()];
    run.signal.addEventListener("abort", () => ends.forEach((end) => end()));
    void this.#loop(run.signal);
  }

  #stop(): void {
    this.#run?.abort();
    this.#run = undefined;
    this.#reading?.abort();
    this.#wake?.();
    // Whoever listens next begins with a look at everything.
    this.#lastId = undefined;
    this.#become("idle");
  }

  async #loop(signal: AbortSignal): Promise<void> {
    let failures = 0;
    while (!signal.aborted) {
      if (this.#http.session.expired) {
        this.#become("expired");
        await this.#sleep(undefined);
      } else if (this.#paused) {
        await this.#sleep(undefined);
      } else {
        const worked = await this.#read(signal);
        if (signal.aborted) return;
        failures = worked ? 0 : failures + 1;
        this.#become("polling");
        if (!this.#http.session.expired && !this.#paused) await this.#sleep(this.#pause(failures));
      }
    }
  }

  #pause(failures: number): number {
    const { first, longest } = this.#times;
    return failures === 0 ? backoff(1, this.#retry, longest) : backoff(failures, first, longest);
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
    let watchdog: ReturnType<typeof setTimeout> | undefined;
    const alive = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => reading.abort(), this.#times.silence);
    };
    let ready = false;
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
          if (message.event === "ready") ready = true;
          this.#take(message);
        }
      }
    } catch {
      // Whatever it was, coming again later is the answer; an expired session is known to the session.
      return ready;
    } finally {
      clearTimeout(watchdog);
      reading.abort();
    }
  }

  #take(message: { event: string; data: string; id: string | undefined; retry: number | undefined }): void {
    const asked = this.#lastId !== undefined;
    if (message.id !== undefined) this.#lastId = message.id;
    if (message.retry !== undefined) this.#retry = message.retry;
    if (message.event === "ready") {
      this.#become("live");
      // What was read before the stream began may be out of date by what happened in between. The service says whether it
      // goes on after the last event; it does not where it has no such event any more, as after a restored backup.
      const { resumed = asked } = JSON.parse(message.data) as { resumed?: boolean };
      if (!resumed) this.#tell({ type: "resync", reason: asked ? "lost" : "start" });
    } else if (message.event === "connection") {
      const event: unknown = JSON.parse(message.data);
      if (fits(event, "Event")) this.#tell({ type: "event", event: event as ConnectionEvent });
    }
  }

  /** Says to look again, while there is no stream. */
  #poll(): () => void {
    let timer: ReturnType<typeof setTimeout>;
    const next = () => {
      timer = setTimeout(() => {
        if (this.#state !== "live" && this.#state !== "expired" && !this.#paused) this.#tell({ type: "resync", reason: "poll" });
        next();
      }, this.#times.poll);
    };
    next();
    return () => clearTimeout(timer);
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
