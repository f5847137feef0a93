import type { InfiniteData, QueryClient, QueryKey } from "@tanstack/react-query";
import type { Client } from "../client/client.js";
import { PatchbayError } from "../client/error.js";
import type { Notice } from "../client/events.js";
import type { Connection } from "../types.js";

/** All of a user's connections, newest first. */
export interface ConnectionList {
  connections: Connection[];
  totalCount: number;
}

/** How many connections are fetched at once. */
const PAGE = 500;

/** A user's part of react-query's cache, kept true by the event stream. */
export class Cache {
  readonly #client: Client;
  readonly #queries: QueryClient;
  readonly #prefix: QueryKey;
  /** Why the list of connections was last not to be had. */
  failure: Error | null = null;
  #cleared = false;
  readonly #refreshing = new Map<string, "once" | "again">();

  constructor(client: Client, queries: QueryClient, scope: string) {
    this.#client = client;
    this.#queries = queries;
    this.#prefix = ["patchbay", scope];
  }

  /** Of the list of all connections. */
  get connections(): QueryKey {
    return [...this.#prefix, "connections"];
  }

  /** Of one connection. */
  connection(id: string): QueryKey {
    return [...this.#prefix, "connection", id];
  }

  /** Of one connection's history. */
  history(id: string): QueryKey {
    return [...this.#prefix, "history", id];
  }

  /** Of the catalog, or a part of it. */
  connectors(...query: unknown[]): QueryKey {
    return [...this.#prefix, "connectors", ...query];
  }

  /** Every connection, page by page. */
  async fetchConnections(signal: AbortSignal): Promise<ConnectionList> {
    try {
      return await this.#pages(signal);
    } catch (error) {
      if (!signal.aborted) this.failure = error as Error;
      throw error;
    }
  }

  async #pages(signal: AbortSignal): Promise<ConnectionList> {
    const connections: Connection[] = [];
    let cursor: string | null = null;
    for (;;) {
      const page = await this.#client.listConnections({ limit: PAGE, ...(cursor ? { cursor } : {}) }, { signal });
      connections.push(...page.connections);
      cursor = page.next_cursor ?? null;
      if (!cursor) return { connections, totalCount: page.total_count };
    }
  }

  /** Takes what the event stream tells. */
  take(notice: Notice): void {
    if (notice.type === "resync") void this.resync();
    else if (notice.type === "event") void this.refresh(notice.event.connection_id);
  }

  /** Fetches again what is shown; the catalog does not change by itself. */
  async resync(): Promise<void> {
    const parts = ["connections", "connection", "history"];
    await Promise.all(parts.map((part) => this.#queries.invalidateQueries({ queryKey: [...this.#prefix, part] })));
  }

  /** Fetches everything again that is shown, the catalog, too. */
  async again(): Promise<void> {
    await this.#queries.invalidateQueries({ queryKey: this.#prefix });
  }

  /** Fetches a connection, and puts it wherever it is shown. Several events at once need one look, and one after it. */
  async refresh(id: string): Promise<void> {
    if (this.#refreshing.has(id)) {
      this.#refreshing.set(id, "again");
      return;
    }
    do {
      this.#refreshing.set(id, "once");
      try {
        this.put(await this.#client.getConnection(id));
      } catch (error) {
        if (error instanceof PatchbayError && error.status === 404) this.#remove(id);
        else await this.resync();
      }
    } while (this.#refreshing.get(id) === "again");
    this.#refreshing.delete(id);
  }

  /** Puts a connection, as the service has just told it, wherever it is shown. */
  put(connection: Connection): void {
    if (this.#cleared) return;
    const { id } = connection;
    this.#queries.setQueryData<Connection>(this.connection(id), (old) => newer(old, connection));
    this.#queries.setQueryData<ConnectionList>(this.connections, (list) => list && placed(list, connection));
    void this.#queries.invalidateQueries({ queryKey: this.history(id) });
  }

  /** Forgets everything of this user, and takes nothing more: answers that are still on their way come too late. */
  clear(): void {
    this.#cleared = true;
    this.#queries.removeQueries({ queryKey: this.#prefix });
  }

  #remove(id: string): void {
    this.#queries.removeQueries({ queryKey: this.connection(id) });
    this.#queries.setQueryData<ConnectionList>(this.connections, (list) => {
      const connections = list?.connections.filter((one) => one.id !== id);
      if (!list || !connections || connections.length === list.connections.length) return list;
      return { connections, totalCount: list.totalCount - 1 };
    });
  }
}

/** Answers may overtake each other: the one that tells of a later change stays. */
function newer(old: Connection | undefined, told: Connection): Connection {
  return old && Date.parse(old.updated_at) > Date.parse(told.updated_at) ? old : told;
}

function placed(list: ConnectionList, connection: Connection): ConnectionList {
  const known = list.connections.some((one) => one.id === connection.id);
  if (!known) return { connections: [connection, ...list.connections], totalCount: list.totalCount + 1 };
  const connections = list.connections.map((one) => (one.id === connection.id ? newer(one, connection) : one));
  return { ...list, connections };
}

/** What an infinite query's pages have in common. */
export function flat<Page, Item>(data: InfiniteData<Page> | undefined, items: (page: Page) => Item[]): Item[] {
  return data?.pages.flatMap(items) ?? [];
}

/** Whether react-query should try again: not what would be refused again. */
export function worthRetrying(failures: number, error: Error): boolean {
  return failures < 2 && error instanceof PatchbayError && error.transient;
}

/** How long react-query should wait before it does: as long as the service says, if it does. */
export function pauseBeforeRetry(failures: number, error: Error): number {
  return Math.max(askedFor(error), 1_000 * 2 ** failures);
}

/** How long until that is asked for once more of which nothing is known yet, in milliseconds. */
const AGAIN = 10_000;

/** How long react-query should wait with that; false where it waits for the user to sign in. */
export function pauseBeforeAgain(error: Error): number | false {
  return isOfSession(error) ? false : Math.max(askedFor(error), AGAIN);
}

/** Whether nothing but signing in again helps. */
export function isOfSession(error: Error): boolean {
  return error instanceof PatchbayError && ["session_expired", "user_changed"].includes(error.code);
}

/** How long the service asks to be left alone, in milliseconds. */
function askedFor(error: Error): number {
  return error instanceof PatchbayError ? (error.retryAfter ?? 0) * 1_000 : 0;
}
