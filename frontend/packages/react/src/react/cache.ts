import { replaceEqualDeep, type InfiniteData, type QueryClient, type QueryKey } from "@tanstack/react-query";
import { allPages, backoff, isOf, PatchbayError, type Client, type Connection, type FlowTarget, type Notice } from "@patchbay/client";
import { MAX_SINGLE_FETCHES } from "./maxSingleFetches.js";
import { LONGEST_PAUSE, persistently } from "./persistently.js";
import type { CacheSync } from "./sync.js";

/** All of a user's connections, newest first. */
export interface ConnectionList {
  connections: Connection[];
  totalCount: number;
}

/** How many connections are fetched at once. */
const PAGE = 500;

/**
 * A user's part of react-query's cache, kept true by the event stream. Responses may overtake each other: of two copies
 * of a connection, the one with the higher version stays, wherever it came from.
 */
export class Cache {
  readonly client: Client;
  readonly queries: QueryClient;
  /** Of all keys. */
  readonly prefix: QueryKey;
  /** Why the list of connections was last not to be had. */
  failure: Error | null = null;
  /** Called when connections are there that were not. */
  onNew: () => void = () => {};
  /** Each connection as it was last seen. */
  readonly newestById = new Map<string, Connection>();
  isCleared = false;
  #isAnnouncing = false;
  #loading: Promise<CacheSync> | undefined;

  constructor(client: Client, queries: QueryClient, scope: string) {
    this.client = client;
    this.queries = queries;
    this.prefix = ["patchbay", scope];
  }

  /** Of the list of all connections. */
  get connections(): QueryKey {
    return [...this.prefix, "connections"];
  }

  /** Of one connection. */
  connection(id: string): QueryKey {
    return [...this.prefix, "connection", id];
  }

  /** Of one connection's history. */
  history(id: string): QueryKey {
    return [...this.prefix, "history", id];
  }

  /** Of the catalog, or a part of it. */
  connectors(...query: unknown[]): QueryKey {
    return [...this.prefix, "connectors", ...query];
  }

  /** A connection as it was last seen. */
  known(id: string): Connection | undefined {
    return this.newestById.get(id);
  }

  /** The connection that a target means, if it is known. */
  readonly idOf = (target: FlowTarget): string | undefined => {
    if ("connectionId" in target) return target.connectionId;
    return [...this.newestById.values()].find((one) => isOf(one, target.connectorId, target.instanceId ?? ""))?.id;
  };

  /** Every connection, page by page. */
  async fetchConnections(signal: AbortSignal): Promise<ConnectionList> {
    try {
      const list = await this.#pages(signal);
      for (const one of list.connections) this.#note(one);
      // The list may be older than the connections that it omits. A list that omits many is accepted as complete.
      const missing = this.#missing(list);
      for (const { id } of missing) {
        if (missing.length > MAX_SINGLE_FETCHES) this.newestById.delete(id);
        else void this.refresh(id);
      }
      return list;
    } catch (error) {
      if (!signal.aborted) this.failure = error as Error;
      throw error;
    }
  }

  async #pages(signal: AbortSignal): Promise<ConnectionList> {
    const pages = await allPages((cursor) => this.client.listConnections({ limit: PAGE, cursor }, { signal }));
    return { connections: pages.flatMap((page) => page.connections), totalCount: pages.at(-1)?.total_count ?? 0 };
  }

  /** One connection. */
  async fetchConnection(id: string, signal: AbortSignal): Promise<Connection> {
    return this.#note(await this.client.getConnection(id, { signal }));
  }

  /** For a query of one connection: its newest known version. */
  readonly newest = (_: unknown, fetched: unknown): unknown => this.newestById.get((fetched as Connection).id) ?? fetched;

  /** For the query of the list: the newest known version of each connection, plus the known connections that it omits. */
  readonly merged = (shown: unknown, fetched: unknown): unknown => {
    const { connections, totalCount } = fetched as ConnectionList;
    const missing = this.#missing(fetched as ConnectionList);
    const newest = connections.map((one) => this.newestById.get(one.id) ?? one);
    return replaceEqualDeep(shown, { connections: [...missing, ...newest], totalCount: totalCount + missing.length });
  };

  /** The known connections that a list omits. */
  #missing(list: ConnectionList): Connection[] {
    const there = new Set(list.connections.map(({ id }) => id));
    return [...this.newestById.values()].filter(({ id }) => !there.has(id));
  }

  /** Applies a notice of the event stream. */
  take(notice: Notice): void {
    void this.#sync().then((sync) => sync.take(notice));
  }

  /** Fetches everything again that is shown, the catalog, too. */
  async again(): Promise<void> {
    return (await this.#sync()).again();
  }

  /** Fetches a connection, and stores it in every query that contains it. */
  async refresh(id: string): Promise<void> {
    return (await this.#sync()).refresh(id);
  }

  #sync(): Promise<CacheSync> {
    return (this.#loading ??= persistently(() => import("./sync.js")).then(({ CacheSync }) => new CacheSync(this)));
  }

  #note(received: Connection): Connection {
    const known = this.newestById.get(received.id);
    const ahead = known && (known.version - received.version || Date.parse(known.updated_at) - Date.parse(received.updated_at));
    if (known && Number(ahead) > 0) return known;
    this.newestById.set(received.id, received);
    if (!known) this.#announceNew();
    return received;
  }

  /** Once for all of a list. */
  #announceNew(): void {
    if (this.#isAnnouncing) return;
    this.#isAnnouncing = true;
    queueMicrotask(() => {
      this.#isAnnouncing = false;
      this.onNew();
    });
  }

  /** Stores a connection that the service has just returned, in every query that contains it. */
  put(received: Connection): void {
    if (this.isCleared) return;
    const connection = this.#note(received);
    this.queries.setQueryData<Connection>(this.connection(received.id), connection);
    // It is merged as every list is.
    this.queries.setQueryData<ConnectionList>(this.connections, (list) => list && { ...list });
  }

  /** Removes all data of this user, and ignores responses that are still pending. */
  clear(): void {
    this.isCleared = true;
    this.queries.removeQueries({ queryKey: this.prefix });
  }
}

/** What an infinite query's pages have in common. */
export function flat<Page, Item>(data: InfiniteData<Page> | undefined, items: (page: Page) => Item[]): Item[] {
  return data?.pages.flatMap(items) ?? [];
}

/** A longer pause before the first retry shows the error meanwhile, in milliseconds. */
const LONGEST_SILENT_PAUSE = 5_000;

/** How every query recovers: by itself, in growing pauses, for as long as nothing is known and it may pass. */
export const RECOVERING = {
  // Offline, too: then there is an error to show instead of a wait without end.
  networkMode: "always" as const,
  retry: (failures: number, error: Error) =>
    failures < 1 &&
    error instanceof PatchbayError &&
    error.transient &&
    error.code !== "token_unavailable" &&
    askedFor(error) <= LONGEST_SILENT_PAUSE,
  retryDelay: (failures: number, error: Error) => Math.max(askedFor(error), backoff(failures + 1, 1_000, LONGEST_PAUSE)),
  refetchInterval: ({ state }: { state: { data: unknown; error: Error | null; errorUpdateCount: number; errorUpdatedAt: number } }) => {
    const { data, error, errorUpdateCount, errorUpdatedAt } = state;
    if (!error || data !== undefined || isOfSession(error)) return false;
    // Jitter that stays the same while the query is looked at.
    const jitter = 0.5 + (errorUpdatedAt % 1_000) / 2_000;
    return Math.max(askedFor(error), Math.min(60_000, 5_000 * 2 ** (errorUpdateCount - 1)) * jitter);
  },
};

/** Whether nothing but signing in again helps. */
export function isOfSession(error: Error): boolean {
  return error instanceof PatchbayError && ["session_expired", "user_changed"].includes(error.code);
}

/** How long the service asks to be left alone, in milliseconds. */
function askedFor(error: Error): number {
  return error instanceof PatchbayError ? (error.retryAfter ?? 0) * 1_000 : 0;
}
