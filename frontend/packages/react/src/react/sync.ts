import { PatchbayError, type Notice } from "@patchbay/client";
import type { QueryKey } from "@tanstack/react-query";
import type { Cache } from "./cache.js";
import { MAX_SINGLE_FETCHES } from "./maxSingleFetches.js";
import { Worker } from "./worker.js";

/** How long to wait after a fetch before what has changed meanwhile is fetched; shorter once after a fetch of a few connections. */
const FIRST_PACE = 250;
const PACE = 1_000;

/** Fetches what the event stream reports as changed, and keeps the cache true by it. */
export class CacheSync {
  readonly #cache: Cache;
  /** Connections to fetch although their version is known: updates within a minute share one. */
  readonly #stale = new Set<string>();
  /** Connections to fetch, each with the version that it has at least. */
  readonly #wanted = new Map<string, number>();
  #everything = false;
  readonly #few = new Worker(
    // Right after all were fetched, further changes wait for the pause's end: they are likely to be many again.
    () => !this.#ended && this.#wanted.size > 0 && this.#wanted.size <= MAX_SINGLE_FETCHES && !this.#all.resting,
    async () => ((await this.#fetchWanted()) ? null : 0),
    FIRST_PACE,
    PACE,
  );
  readonly #all = new Worker(
    () => !this.#ended && (this.#everything || this.#wanted.size > MAX_SINGLE_FETCHES),
    () => this.#fetchAll(),
    PACE,
    PACE,
  );

  constructor(cache: Cache) {
    this.#cache = cache;
  }

  /** Takes what the event stream tells. */
  take(notice: Notice): void {
    if (notice.type === "event") {
      if (notice.event.kind === "updated") this.#stale.add(notice.event.connection_id);
      this.#want(notice.event.connection_id, notice.event.version);
    } else if (notice.type === "state") {
      if (notice.state !== "live") return;
      this.#few.hurry();
      this.#all.hurry();
    } else if (notice.reason === "lost") {
      this.#cache.newestById.clear();
      this.#wanted.clear();
      void this.#cache.queries.resetQueries({ queryKey: this.#cache.prefix });
    } else if (notice.reason === "start" || !this.#all.working) {
      this.#resync();
    }
  }

  /** Fetches everything again that is shown, the catalog, too. */
  async again(): Promise<void> {
    this.#resync();
    await this.#cache.queries.invalidateQueries({ queryKey: this.#cache.connectors() });
  }

  /** Fetches a connection, and puts it wherever it is shown. */
  async refresh(id: string): Promise<void> {
    if (!(await this.#fetch(id))) this.#want(id, 0);
  }

  #resync(): void {
    this.#everything = true;
    this.#all.hurry();
  }

  #want(id: string, version: number): void {
    this.#wanted.set(id, Math.max(version, this.#wanted.get(id) ?? 0));
    void this.#few.run();
    void this.#all.run().then(() => this.#few.run());
  }

  get #ended(): boolean {
    return this.#cache.isCleared || this.#cache.client.session.expired;
  }

  /** Fetches the few connections that have changed. Whether they are there. */
  async #fetchWanted(): Promise<boolean> {
    const fetched = await Promise.all(
      [...this.#wanted].map(async ([id, version]) => {
        const stale = this.#stale.delete(id) || version === 0;
        if ((stale || !this.#has(id, version)) && !(await this.#fetch(id))) {
          if (stale) this.#stale.add(id);
          return false;
        }
        await this.#renew(this.#cache.history(id));
        return this.#has(id, version) || !this.#wanted.has(id);
      }),
    );
    return fetched.every(Boolean);
  }

  /** Whether a connection is there in this version. */
  #has(id: string, version: number): boolean {
    const there = (this.#cache.newestById.get(id)?.version ?? -1) >= version;
    // An event may have come meanwhile, of the same version, too.
    if (there && this.#wanted.get(id) === version && !this.#stale.has(id)) this.#wanted.delete(id);
    return there;
  }

  /** Fetches all that is shown. Returns null if that worked, else the pause that the service asks for in milliseconds. */
  async #fetchAll(): Promise<number | null> {
    this.#everything = false;
    this.#stale.clear();
    const wanted = [...this.#wanted];
    const parts = ["connections", "connection", "history"].map((part) => [...this.#cache.prefix, part]);
    await Promise.all(parts.map((part) => this.#renew(part)));
    const shown = this.#cache.queries.getQueryCache().findAll({ queryKey: this.#cache.prefix, type: "active" });
    const failed = shown.map(({ state: { error } }) => error).find(isTransient);
    if (failed) this.#everything = true;
    // Where the list is not shown, nothing has to be there.
    const listed = shown.some(({ queryKey }) => queryKey[2] === "connections");
    let missing = 0;
    for (const [id, version] of wanted) {
      if (!listed) this.#wanted.delete(id);
      else if (!this.#has(id, version)) missing += 1;
    }
    if (failed) {
      void this.#few.run();
      return (failed.retryAfter ?? 0) * 1_000;
    }
    // What has changed during the fetch is no reason for a longer pause.
    return missing <= MAX_SINGLE_FETCHES ? null : 0;
  }

  /** Refetches the visible queries below a key. If a fetch is in progress, repeats it: that fetch may have started too early. */
  async #renew(queryKey: QueryKey): Promise<void> {
    const again = this.#cache.queries.isFetching({ queryKey }) > 0;
    await this.#cache.queries.invalidateQueries({ queryKey }, { cancelRefetch: false });
    if (again) await this.#cache.queries.invalidateQueries({ queryKey }, { cancelRefetch: false });
  }

  /** Whether that worked. */
  async #fetch(id: string): Promise<boolean> {
    try {
      this.#cache.put(await this.#cache.client.getConnection(id));
      return true;
    } catch (error) {
      if (!(error instanceof PatchbayError) || error.code !== "connection_not_found") return false;
      this.#cache.newestById.delete(id);
      this.#wanted.delete(id);
      this.#resync();
      return true;
    }
  }
}

function isTransient(error: Error | null): error is PatchbayError {
  return error instanceof PatchbayError && error.transient;
}
