import { backoff } from "../backoff.js";
import type { Client } from "../client.js";
import { PatchbayError } from "../error.js";
import type { Connection } from "../types.js";

/** How long to wait for what, in milliseconds. */
export interface WatchTimes {
  /** Between two looks while the event stream is there to tell. */
  calm: number;
  /** Between two looks while it is not, besides what the service itself waits. */
  gap: number;
  /** The longest wait after failures. */
  longest: number;
}

/** What serves in practice. */
export const WATCH_TIMES: WatchTimes = { calm: 15_000, gap: 1_000, longest: 15_000 };

/** How long one question may wait for its answer at the service, in seconds. */
const WAIT = 25;

/** Who is told what a watch sees. */
export interface Watcher {
  /** The connection as the service has it. Whether there is more to wait for; if not, only an event brings another look. */
  seen(connection: Connection): boolean;
  /** The service cannot be asked at the moment, or can again. */
  troubled(error: PatchbayError | null): void;
  /** There is no such connection. */
  gone(error: PatchbayError): void;
}

/**
 * Looks at a connection until it is stopped. The service is the only one believed: its events and whatever else may
 * have happened are hints that make it look at once. While there is no event stream, each look waits at the service.
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
      // Whoever has asked: what it means is told before anybody acts on it, by taking a button away for example.
      client.observe((connection) => {
        if (connection.id === id) this.#over = !watcher.seen(connection);
      }),
    ];
    this.#stopped.signal.addEventListener("abort", () => ends.forEach((end) => end()));
    void this.#loop();
  }

  /** Makes it look at once: the service may know more. */
  hint(): void {
    this.#hinted = true;
    this.#interrupt?.();
  }

  /** The user seems to be back: has Nango asked anew, whatever the service has found a moment ago. */
  returned(): void {
    this.hint();
    if (this.#asking === "no") void this.#ask();
    else this.#asking = "again";
  }

  async #ask(): Promise<void> {
    do {
      this.#asking = "once";
      // If Nango cannot be asked now, the service goes on trying by itself.
      await this.#client.returned(this.#id, { signal: this.#stopped.signal }).catch(() => undefined);
      this.hint();
    } while ((this.#asking as string) === "again" && !this.#stopped.signal.aborted);
    this.#asking = "no";
  }

  /** Ends it, with all its timers and requests. */
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

  /** How long until the next look, after failures at least as long as was asked for; undefined if only a hint brings one. */
  #pause(failures: number, asked: number, waited: boolean): number | undefined {
    if (this.#client.session.expired || (this.#over && failures === 0)) return undefined;
    const { calm, gap, longest } = this.#times;
    if (failures > 0) return Math.max(asked, backoff(failures, gap, longest));
    if (this.#client.stream.state === "live") return calm;
    return waited ? gap : 0;
  }

  /** One look. False if a hint broke it off. */
  async #look(wait: number | undefined): Promise<boolean> {
    const looking = new AbortController();
    // Only a look that waits at the service is worth breaking off.
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

  /** Waits; for ever if no time is given, and not at all if there was a hint meanwhile. */
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
