import type { Client } from "../client.js";
import { Listeners } from "../listeners.js";
import { ConnectFlow, loadSteps } from "./flow.js";
import type { Connection } from "../types.js";
import { keyOf, type FlowTarget } from "./state.js";

/** The connections that the page has fetched. */
export interface KnownConnections {
  /** The connection that a target means. */
  idOf(target: FlowTarget): string | undefined;
  /** Stores a connection that the service has just returned. */
  put(connection: Connection): void;
}

/**
 * The flows of one user's page: one for each target, so that all components of an account share a window. Call `resume`
 * and `dispose` in pairs, any number of times.
 */
export class Flows {
  readonly #client: Client;
  readonly #connections: KnownConnections;
  /** By each key of a flow: its targets' keys and its connection's id. */
  readonly #flows = new Map<string, ConnectFlow>();
  readonly #listeners = new Listeners();
  #live = false;

  constructor(client: Client, connections: KnownConnections) {
    this.#client = client;
    this.#connections = connections;
  }

  /** The flow of a target, however it is named: by its connection, or by its connector's slug or id. */
  of(target: FlowTarget): ConnectFlow {
    const keys = [this.#connections.idOf(target) ?? keyOf(target), keyOf(target)];
    const found = keys.map((key) => this.#flows.get(key)).filter((flow) => flow !== undefined);
    const flow = found.find(({ state }) => state.phase !== "idle") ?? found[0] ?? this.#add(target);
    for (const key of keys) this.#name(key, flow);
    return flow;
  }

  #add(target: FlowTarget): ConnectFlow {
    const flow = new ConnectFlow(this.#client, target);
    flow.onCanceled = (connection) => this.#connections.put(connection);
    flow.subscribe(() => {
      if ("connection" in flow.state) this.#connections.put(flow.state.connection);
      if (flow.connectionId) this.#name(flow.connectionId, flow);
      this.notify();
    });
    return flow;
  }

  #name(key: string, flow: ConnectFlow): void {
    const before = this.#flows.get(key);
    this.#flows.set(key, flow);
    // Who has the other one, as it may be from before the connection was known, has to look again.
    if (before && before !== flow) queueMicrotask(() => this.notify());
  }

  /** Continues what was in progress before a reload. */
  resume(): void {
    this.#live = true;
    for (const flow of new Set(this.#flows.values())) flow.resume();
    void this.#recall().catch(() => undefined);
  }

  async #recall(): Promise<void> {
    const [{ FlowMemory }, user] = await Promise.all([loadSteps(), this.#client.user()]);
    const targets = this.#live ? new FlowMemory(this.#client.base, user).targets() : [];
    for (const target of targets) this.of(target).resume();
  }

  /** Stops all timers and requests. */
  dispose(): void {
    this.#live = false;
    for (const flow of new Set(this.#flows.values())) flow.dispose();
  }

  /** Calls `listener` when a flow changes, or another one may be a target's; the returned function ends that. */
  subscribe(listener: () => void): () => void {
    return this.#listeners.listen(listener);
  }

  /** Tells the listeners. */
  notify(): void {
    this.#listeners.call();
  }
}
