import { backoff } from "../backoff.js";
import type { Client } from "../client.js";
import { PatchbayError } from "../error.js";
import type { Connection } from "../types.js";

/** The intervals of a watch, in milliseconds. */
export interface WatchTimes {
  /** Between two polls while the event stream is open. */
  calm: number;
  /** Between two polls while it is not, in addition to the service's long poll. */
  gap: number;
  /** The longest wait after failures. */
  longest: number;
}

/** The default intervals. */
export const WATCH_TIMES: WatchTimes = { calm: 15_000, gap: 1_000, longest: 15_000 };

/** The timeout of one long poll at the service, in seconds. */
const WAIT = 25;

/** The callbacks of a watch. */
export interface Watcher {
  /** Receives the current connection. Returns `true` to keep polling; otherwise only an event causes another poll. */
  seen(connection: Connection): boolean;
  /** Receives the error while the service is unreachable; null when it is reachable again. */
  troubled(error: PatchbayError | null): void;
  /** There is no such connection. */
  gone(error: PatchbayError): void;
}

/**
 * Polls a connection until it is stopped. The service's response is authoritative; events and other signals are hints
 * that cause an immediate poll. While there is no event stream, each request is a long poll.
 */
export class Watch {
  readonly #client: Client;
  readonly #id: string;
  readonly #watcher: Watcher;
  readonly #times: WatchTimes;
  readonly #stopped = new AbortController();
  #hinted = false;
  #asking: "no" | "once" | "again" = "no";
  #interrupt: (() => void) | undefined;
  #over = false;

  constructor(client: Client, id: string, watcher: Watcher, times: WatchTimes = WATCH_TIMES) {
    this.#client = client;
    this.#id = id;
    this.#watcher = watcher;
    this.#times = times;
    const ends = [
      client.events((notice) => {
        if (notice.type === "event") {
          if (notice.event.connection_id === id) this.hint();
        } else if (notice.type === "resync") this.hint();
        else if (!this.#over) this.#interrupt?.();
      }),
      client.session.subscribe(() => this.hint()),
      // The watcher is notified before any caller acts on a response, by hiding a button for example.
      client.observe((connection) => {
        if (connection.id === id) this.#over = !watcher.seen(connection);
      }),
    ];
    this.#stopped.signal.addEventListener("abort", () => ends.forEach((end) => end()));
    void this.#loop();
  }

  /** Causes an immediate poll, because the service may have newer data. */
  hint(): void {
    this.#hinted = true;
    this.#interrupt?.();
  }

  /** The user seems to be back: makes the service query Nango again, even if it has just done so. */
  returned(): void {
    this.hint();
    if (this.#asking === "no") void this.#ask();
    else this.#asking = "again";
  }

  async #ask(): Promise<void> {
    do {
      this.#asking = "once";
      // If Nango is unreachable now, the service retries by itself.
      await this.#client.returned(this.#id, { signal: this.#stopped.signal }).catch(() => undefined);
      this.hint();
    } while ((this.#asking as string) === "again" && !this.#stopped.signal.aborted);
    this.#asking = "no";
  }

  /** Stops the watch, with all its timers and requests. */
  stop(): void {
    this.#stopped.abort();
    this.#interrupt?.();
  }

  async #loop(): Promise<void> {
    let failures = 0;
    let asked = 0;
    let first = true;
    while (!this.#stopped.signal.aborted) {
      const hinted = this.#hinted;
      this.#hinted = false;
      const live = this.#client.stream.state === "live";
      const wait = first || hinted || live ? undefined : WAIT;
      try {
        if (await this.#look(wait)) {
          first = false;
          failures = 0;
          this.#watcher.troubled(null);
        }
      } catch (error) {
        if (!(error instanceof PatchbayError) || this.#stopped.signal.aborted) return;
        if (error.code === "connection_not_found") return this.#watcher.gone(error);
        failures += 1;
        asked = (error.retryAfter ?? 0) * 1_000;
        this.#watcher.troubled(error);
      }
      await this.#rest(this.#pause(failures, asked, wait !== undefined));
    }
  }

  /** The pause before the next poll, after failures at least the service's `Retry-After`; undefined if only a hint ends it. */
  #pause(failures: number, asked: number, waited: boolean): number | undefined {
    if (this.#client.session.expired || (this.#over && failures === 0)) return undefined;
    const { calm, gap, longest } = this.#times;
    if (failures > 0) return Math.max(asked, backoff(failures, gap, longest));
    if (this.#client.stream.state === "live") return calm;
    return waited ? gap : 0;
  }

  /** Polls once. Returns `false` if a hint aborted the request. */
  async #look(wait: number | undefined): Promise<boolean> {
    const looking = new AbortController();
    // Only a long poll is worth aborting.
    if (wait !== undefined) this.#interrupt = () => looking.abort();
    try {
      const signal = AbortSignal.any([looking.signal, this.#stopped.signal]);
      await this.#client.getConnection(this.#id, { wait, signal });
      return true;
    } catch (error) {
      if (looking.signal.aborted && !this.#stopped.signal.aborted) return false;
      throw error;
    } finally {
      this.#interrupt = undefined;
    }
  }

  /** Waits; without a time until a hint, and not at all if there was a hint meanwhile. */
  #rest(milliseconds: number | undefined): Promise<void> {
    if (this.#hinted || this.#stopped.signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#interrupt = undefined;
        resolve();
      };
      const timer = milliseconds === undefined ? undefined : setTimeout(done, milliseconds);
      this.#interrupt = done;
    });
  }
}
