import type { ConnectionEvent } from "./types.js";
import type { Http } from "./http.js";
import { backoff } from "./backoff.js";
import { Listeners } from "./listeners.js";
import type { Tabs } from "./tabs.js";

/**
 * How changes arrive: `live` from the event stream; `polling` while there is no stream; `connecting` before the first
 * stream; `expired` while the user has to sign in again; `idle` while there are no listeners.
 */
export type StreamState = "idle" | "connecting" | "live" | "polling" | "expired";

/** A notification to a listener. */
export type Notice =
  /** A connection has changed. */
  | { type: "event"; event: ConnectionEvent }
  /**
   * A change may have no event: fetch again. `start`: the stream has started; `poll`: there is no stream; `lost`: the
   * service no longer has the last event, as after a restored backup, so versions may be lower than before.
   */
  | { type: "resync"; reason: "start" | "poll" | "lost" }
  | { type: "state"; state: StreamState };

/** Timeouts and intervals in milliseconds; tests have shorter ones. */
export interface StreamTimes {
  /** A stream that does not start within this time counts as stalled: a proxy buffers it. */
  stall: number;
  /** A stream without a byte for this time counts as broken. The service sends one every 5 s. */
  silence: number;
  /** The first wait after a failure; doubled by each further one. */
  first: number;
  /** The longest wait. */
  longest: number;
  /** How often to poll while there is no stream. */
  poll: number;
  /** The delay before a hidden page closes its stream: browsers allow six connections to an origin, in all tabs. */
  hidden: number;
}

/** The times of a browser's page. */
export const STREAM_TIMES: StreamTimes = { stall: 4_000, silence: 12_000, first: 1_000, longest: 30_000, poll: 10_000, hidden: 60_000 };

/** What the reader of a stream reports to. */
export interface StreamHub {
  state: StreamState;
  /** The user's tabs, while this one listens. */
  tabs: Tabs | undefined;
  become(state: StreamState): void;
  /** Calls the listeners. */
  tell(notice: Notice): void;
}

/**
 * The user's event stream. All listeners in all tabs share it, and it is open while there is a listener. The first
 * listener loads its reader; while the reader cannot be loaded, listeners poll.
 */
export class EventStream {
  readonly #http: Http;
  readonly #times: StreamTimes;
  readonly #listeners = new Listeners<Notice>();
  #run: AbortController | undefined;
  readonly #hub: StreamHub = {
    state: "idle",
    tabs: undefined,
    become: (state) => {
      if (this.#hub.state === state) return;
      this.#hub.state = state;
      this.#hub.tell({ type: "state", state });
    },
    tell: (notice) => this.#listeners.call(notice),
  };

  constructor(http: Http, times: StreamTimes = STREAM_TIMES) {
    this.#http = http;
    this.#times = times;
  }

  /** The current state of the stream. */
  get state(): StreamState {
    return this.#hub.state;
  }

  /** The user's tabs, while this one listens. */
  get tabs(): Tabs | undefined {
    return this.#hub.tabs;
  }

  /** Calls `listener` with every notice from now on. The returned function ends that. */
  subscribe(listener: (notice: Notice) => void): () => void {
    // A function of its own, so that the same one may be given twice.
    const leave = this.#listeners.listen((notice) => listener(notice));
    if (!this.#run) {
      this.#run = new AbortController();
      this.#hub.become("connecting");
      void this.#read(this.#run.signal);
    }
    return () => {
      leave();
      if (this.#listeners.size > 0) return;
      this.#run?.abort();
      this.#run = undefined;
      this.#hub.become("idle");
    };
  }

  async #read(signal: AbortSignal): Promise<void> {
    for (let failures = 1; !signal.aborted; failures += 1) {
      try {
        const { StreamReader } = await import("./stream.js");
        if (!signal.aborted) new StreamReader(this.#http, this.#times, this.#hub, signal).start();
        return;
      } catch {
        if (signal.aborted) return;
        this.#hub.become("polling");
        this.#hub.tell({ type: "resync", reason: "poll" });
        await new Promise((resolve) => setTimeout(resolve, backoff(failures, this.#times.first, this.#times.longest)));
      }
    }
  }
}
