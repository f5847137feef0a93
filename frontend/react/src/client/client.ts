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
} from "../types.js";
import { PatchbayError } from "./error.js";
import { EventStream, type Notice } from "./events.js";
import { Http, type ClientOptions } from "./http.js";
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

/** How often a request whose answer got lost is sent again. */
const ATTEMPTS = 3;

/** Patchbay for one user. Every method throws a `PatchbayError`, and an `AbortError` when its signal is aborted. */
export class Client {
  readonly #http: Http;
  readonly #observers = new Set<(connection: Connection) => void>();
  /** The user's event stream. */
  readonly stream: EventStream;

  constructor(options: ClientOptions) {
    this.#http = new Http(options);
    this.stream = new EventStream(this.#http);
  }

  /** Patchbay's own origin. */
  get origin(): string {
    return this.#http.base.origin;
  }

  /** Whether the user's token is still accepted. */
  get session(): Session {
    return this.#http.session;
  }

  /** Tells `listener` what happens to the user's connections, as it happens; the answer ends that. */
  events(listener: (notice: Notice) => void): () => void {
    return this.stream.subscribe(listener);
  }

  /** Shows `observer` every connection that is asked for, before whoever asked; the answer ends that. */
  observe(observer: (connection: Connection) => void): () => void {
    this.#observers.add(observer);
    return () => this.#observers.delete(observer);
  }

  #show(connection: Connection): Connection {
    for (const observer of [...this.#observers]) observer(connection);
    return connection;
  }

  /** A page of the catalog, by name. */
  listConnectors(query: ConnectorQuery = {}, { signal }: CallOptions = {}): Promise<ConnectorPage> {
    return this.#http.json("", { query: { ...query }, signal });
  }

  /** One connector, by slug or id. */
  getConnector(connector: string, { signal }: CallOptions = {}): Promise<Connector> {
    return this.#http.json(`/${encodeURIComponent(connector)}`, { signal });
  }

  /** A page of the user's connections, newest first. */
  async listConnections(query: ConnectionQuery = {}, { signal }: CallOptions = {}): Promise<ConnectionPage> {
    const page = await this.#http.json<ConnectionPage>("/connections", { query: { ...query }, signal });
    for (const connection of page.connections) this.#show(connection);
    return page;
  }

  /** One connection. With `wait`, the answer comes as soon as no attempt is under way, after so many seconds (30) at most. */
  async getConnection(id: string, { signal, wait }: CallOptions & { wait?: number } = {}): Promise<Connection> {
    return this.#show(await this.#http.json(`/connections/${encodeURIComponent(id)}`, { query: { wait }, signal }));
  }

  /** Begins to connect an account of this connector, by slug or id. */
  connect(connector: string, options: ConnectOptions = {}): Promise<ConnectAnswer> {
    return this.#begin(`/${encodeURIComponent(connector)}/connect`, options);
  }

  /** Begins to authorize a connection again; its id stays. */
  reconnect(id: string, options: Omit<ConnectOptions, "instanceId"> = {}): Promise<ConnectAnswer> {
    return this.#begin(`/connections/${encodeURIComponent(id)}/reconnect`, options);
  }

  /** Has Nango asked about an attempt at once, as after a popup has returned. */
  returned(id: string, { signal }: CallOptions = {}): Promise<CallbackAnswer> {
    return this.#http.json("/callback", { query: { connection_id: id }, signal });
  }

  /** Asks Nango now how a connection is, by refreshing its credentials. */
  async check(id: string, { signal }: CallOptions = {}): Promise<Connection> {
    return this.#show(await this.#http.json(`/connections/${encodeURIComponent(id)}/check`, { method: "POST", signal }));
  }

  /** Changes a connection's label or config. */
  update(id: string, change: ConnectionChange, { signal }: CallOptions = {}): Promise<Connection> {
    return this.#http.json(`/connections/${encodeURIComponent(id)}`, { method: "PATCH", body: change, signal });
  }

  /** Takes the other account that a reconnect came back as: `found_account`'s id. */
  async acceptAccount(id: string, accountId: string, { signal }: CallOptions = {}): Promise<Connection> {
    const parts = { method: "POST", body: { account_id: accountId }, signal } as const;
    return this.#show(await this.#http.json(`/connections/${encodeURIComponent(id)}/account`, parts));
  }

  /** Ends a connection; which one may be left out when there is only one. May be repeated. */
  disconnect(
    connector: string,
    { signal, connectionId, instanceId }: CallOptions & { connectionId?: string; instanceId?: string } = {},
  ): Promise<DisconnectAnswer> {
    const query = { connection_id: connectionId, instance_id: instanceId };
    return this.#http.json(`/${encodeURIComponent(connector)}/disconnect`, { method: "DELETE", query, signal });
  }

  /** What has happened to a connection, the newest first. */
  history(id: string, query: HistoryQuery = {}, { signal }: CallOptions = {}): Promise<HistoryPage> {
    return this.#http.json(`/connections/${encodeURIComponent(id)}/history`, { query: { ...query }, signal });
  }

  /** Sent again under its key when its answer is lost, so that an attempt is begun once. */
  async #begin(path: string, options: ConnectOptions): Promise<ConnectAnswer> {
    const { instanceId, details, signal } = options;
    const headers = { "idempotency-key": options.idempotencyKey ?? randomId() };
    for (let attempt = 1; ; attempt += 1) {
      try {
        const query = { instance_id: instanceId || undefined };
        return await this.#http.json(path, { method: "POST", query, body: details, headers, signal });
      } catch (error) {
        const again = error instanceof PatchbayError && ["network", "idempotency_key_under_way"].includes(error.code);
        if (!again || attempt === ATTEMPTS) throw error;
        await new Promise((resolve) => setTimeout(resolve, (error.retryAfter ?? 0.5) * 1_000));
        signal?.throwIfAborted();
      }
    }
  }
}

/** A client for one user. */
export function createClient(options: ClientOptions): Client {
  return new Client(options);
}
