import type {
  CallbackAnswer,
  ConnectAnswer,
  ConnectDetails,
  Connection,
  ConnectionChange,
  ConnectionPage,
  ConnectionQuery,
  Connector,
  ConnectorPage,
  ConnectorQuery,
  DisconnectAnswer,
  HistoryPage,
  HistoryQuery,
} from "./types.js";
import { backoff } from "./backoff.js";
import { PatchbayError, type ErrorCode } from "./error.js";
import { EventStream, type Notice } from "./events.js";
import { Http, type ClientOptions, type RequestParts } from "./http.js";
import { connectorId } from "./connector-id.js";
import { Listeners } from "./listeners.js";
import { randomId } from "./random.js";
import type { Session } from "./session.js";

/** How a request may be ended early. */
export interface CallOptions {
  signal?: AbortSignal | undefined;
}

/** How to connect: what is said with it, and the key under which it may be repeated. */
export interface ConnectOptions extends CallOptions {
  /** Tells several accounts of one connector apart; left out for the first. */
  instanceId?: string | undefined;
  details?: ConnectDetails | undefined;
  /** The same key within a day brings the same answer; made up if left out. */
  idempotencyKey?: string | undefined;
}

/** How long a connect is sent again before it counts as refused, in milliseconds: longer than a restart takes. */
const PATIENCE = 10_000;

/** How long after a request of several tabs its next repetition is sent, in milliseconds: for lists and for all else. */
const LIST_PACE = 1_000;
const PACE = 250;

/** What passes by itself, so that the same connect may be sent again. */
const PASSING: readonly ErrorCode[] = [
  "network",
  "unreadable",
  "idempotency_key_in_progress",
  "starting",
  "stopping",
  "overloaded",
  "database_unavailable",
  "keys_unavailable",
  "rate_limited",
];

/** Patchbay for one user. Every method throws a `PatchbayError`, and an `AbortError` when its signal is aborted. */
export class Client {
  readonly #http: Http;
  readonly #observers = new Listeners<Connection>();
  /** When this client last changed something: `Date.now()`. */
  #changedAt = 0;
  /** The user's event stream. */
  readonly stream: EventStream;

  constructor(options: ClientOptions) {
    this.#http = new Http(options);
    this.stream = new EventStream(this.#http);
  }

  /** Patchbay's address. */
  get base(): string {
    return this.#http.base.href;
  }

  /** Whether the user's token is still accepted. */
  get session(): Session {
    return this.#http.session;
  }

  /** Tells `listener` what happens to the user's connections, as it happens; the answer ends that. */
  events(listener: (notice: Notice) => void): () => void {
    return this.stream.subscribe(listener);
  }

  /** The service's time, as `Date.now()` counts it: the browser's clock may be wrong. */
  now(): number {
    return this.#http.now();
  }

  /** The user whose token this client has: its subject. Asks for a token if there was none yet. */
  user(): Promise<string> {
    if (this.session.user === undefined) void this.#http.compareUser();
    return this.session.identified;
  }

  /** Calls `observer` with every fetched connection, before the caller receives it. The returned function ends that. */
  observe(observer: (connection: Connection) => void): () => void {
    return this.#observers.listen(observer);
  }

  #show(connection: Connection): Connection {
    this.#observers.call(connection);
    return connection;
  }

  /** Reads a resource, of one connection if it is given, and shares the response with the user's other tabs. */
  #read<T>(path: string, shape: string, query: RequestParts["query"] & object, signal?: AbortSignal, connectionId?: string): Promise<T> {
    const read = () => this.#http.json<T>(path, shape, { query, signal });
    const { tabs } = this.stream;
    const request = { request: path + JSON.stringify(query), connectionId, since: this.#changedAt, pace: path === "/connections" ? LIST_PACE : PACE };
    return tabs ? tabs.once(request, read, signal) : read();
  }

  /** Sends a request that may change something. */
  #write<T>(path: string, shape: string, parts: RequestParts): Promise<T> {
    return this.#http.json<T>(path, shape, parts).finally(() => (this.#changedAt = Date.now()));
  }

  async #change(id: string, path: string, parts: RequestParts): Promise<Connection> {
    return this.#show(await this.#write(`/connections/${encodeURIComponent(id)}${path}`, "Connection", parts));
  }

  /** A page of the catalog, by name. */
  listConnectors(query: ConnectorQuery = {}, { signal }: CallOptions = {}): Promise<ConnectorPage> {
    return this.#read("", "ConnectorList", { ...query }, signal);
  }

  /** One connector, by slug or id. */
  async getConnector(connector: string, { signal }: CallOptions = {}): Promise<Connector> {
    return this.#http.json(`/${await connectorId(connector)}`, "Connector", { signal });
  }

  /** A page of the user's connections, newest first. */
  async listConnections(query: ConnectionQuery = {}, { signal }: CallOptions = {}): Promise<ConnectionPage> {
    const connector = query.connector_id && (await connectorId(query.connector_id));
    const filter = connector ? { ...query, connector_id: connector } : { ...query };
    const page = await this.#read<ConnectionPage>("/connections", "ConnectionList", filter, signal);
    for (const connection of page.connections) this.#show(connection);
    return page;
  }

  /** One connection. With `wait`, the service responds when no attempt is in progress, or after `wait` seconds (at most 30). */
  async getConnection(id: string, { signal, wait }: CallOptions & { wait?: number | undefined } = {}): Promise<Connection> {
    const path = `/connections/${encodeURIComponent(id)}`;
    const read = wait === undefined ? this.#read<Connection>(path, "Connection", {}, signal, id) : undefined;
    return this.#show(await (read ?? this.#http.json(path, "Connection", { query: { wait }, signal })));
  }

  /** Starts a connection of an account of this connector, by slug or id. */
  async connect(connector: string, options: ConnectOptions = {}): Promise<ConnectAnswer> {
    return this.#begin(`/${await connectorId(connector)}/connect`, options);
  }

  /** Starts a reauthorization. The connection keeps its id. */
  reconnect(id: string, options: Omit<ConnectOptions, "instanceId"> = {}): Promise<ConnectAnswer> {
    return this.#begin(`/connections/${encodeURIComponent(id)}/reconnect`, options);
  }

  /** Has Nango asked about an attempt at once, as after a popup has returned. */
  returned(id: string, { signal }: CallOptions = {}): Promise<CallbackAnswer> {
    return this.#write("/callback", "CallbackResponse", { query: { connection_id: id }, signal });
  }

  /** Asks Nango now how a connection is, by refreshing its credentials. */
  check(id: string, { signal }: CallOptions = {}): Promise<Connection> {
    return this.#change(id, "/check", { method: "POST", signal });
  }

  /** Changes a connection's label or config. */
  update(id: string, change: ConnectionChange, { signal }: CallOptions = {}): Promise<Connection> {
    return this.#change(id, "", { method: "PATCH", body: change, signal });
  }

  /** Takes the other account that a reconnect returned: `pending_account`'s id. */
  acceptAccount(id: string, accountId: string, { signal }: CallOptions = {}): Promise<Connection> {
    return this.#change(id, "/account", { method: "POST", body: { account_id: accountId }, signal });
  }

  /** Ends a connection; which one may be left out when there is only one. May be repeated. */
  async disconnect(
    connector: string,
    { signal, connectionId, instanceId }: CallOptions & { connectionId?: string | undefined; instanceId?: string | undefined } = {},
  ): Promise<DisconnectAnswer> {
    const query = { connection_id: connectionId, instance_id: instanceId };
    return this.#write(`/${await connectorId(connector)}/disconnect`, "DisconnectResponse", { method: "DELETE", query, signal });
  }

  /**
   * Cancels the open attempt of a connection; with `attemptId`, only that one. What it still brings about is deleted. A
   * connection that never was connected is removed with it.
   */
  cancel(id: string, { signal, attemptId }: CallOptions & { attemptId?: string | null | undefined } = {}): Promise<Connection> {
    const body = { attempt_id: attemptId ?? null };
    return this.#repeat(() => this.#change(id, "/cancel", { method: "POST", body, signal }), signal);
  }

  /** Removes a connection that is not connected from the list. May be repeated. */
  remove(id: string, { signal }: CallOptions = {}): Promise<DisconnectAnswer> {
    return this.#write(`/connections/${encodeURIComponent(id)}`, "DisconnectResponse", { method: "DELETE", signal });
  }

  /** What has happened to a connection, the newest first. */
  history(id: string, query: HistoryQuery = {}, { signal }: CallOptions = {}): Promise<HistoryPage> {
    return this.#read(`/connections/${encodeURIComponent(id)}/history`, "EventList", { ...query }, signal, id);
  }

  /** Sent again under its key while the service is away, so that one attempt is started. */
  #begin(path: string, options: ConnectOptions): Promise<ConnectAnswer> {
    const { instanceId, details, signal } = options;
    const headers = { "idempotency-key": options.idempotencyKey ?? randomId() };
    const query = { instance_id: instanceId || undefined };
    return this.#repeat(() => this.#write(path, "ConnectResponse", { method: "POST", query, body: details, headers, signal }), signal);
  }

  /** Sends an idempotent request again while the service is away. */
  async #repeat<T>(send: () => Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    const end = performance.now() + PATIENCE;
    for (let failures = 1; ; failures += 1) {
      try {
        return await send();
      } catch (error) {
        if (!(error instanceof PatchbayError && PASSING.includes(error.code))) throw error;
        const pause = Math.max((error.retryAfter ?? 0) * 1_000, backoff(failures, 500, 4_000));
        if (performance.now() + pause > end) throw error;
        await new Promise((resolve) => setTimeout(resolve, pause));
        signal?.throwIfAborted();
      }
    }
  }
}

/** A client for one user. */
export function createClient(options: ClientOptions): Client {
  return new Client(options);
}
