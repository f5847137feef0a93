import { ConnectFlow, type Client, type Connection, type FlowState, type FlowTarget } from "@patchbay/react";
import { createContext, useCallback, useContext, useSyncExternalStore } from "react";

/**
 * Every connect of the page, by what it is for, so that a card, a row and a page that show the same one show the same
 * window. They last as long as the user is signed in.
 */
export class Flows {
  readonly #client: Client;
  readonly #connected: (connection: Connection) => void;
  readonly #flows = new Map<string, ConnectFlow>();

  /** `connected` is told of each connect that ends so. */
  constructor(client: Client, connected: (connection: Connection) => void) {
    this.#client = client;
    this.#connected = connected;
  }

  of(target: FlowTarget): ConnectFlow {
    const key = "connectionId" in target ? target.connectionId : `${target.connectorId}:${target.instanceId ?? ""}`;
    let flow = this.#flows.get(key);
    if (!flow) {
      flow = new ConnectFlow(this.#client, target, { onConnected: this.#connected });
      flow.resume();
      this.#flows.set(key, flow);
    }
    return flow;
  }

  /** Ends all of them, and what the tab remembers of them: the next user has other connections. */
  end(): void {
    for (const flow of this.#flows.values()) {
      flow.dismiss();
      flow.dispose();
    }
    this.#flows.clear();
  }
}

export const FlowsContext = createContext<Flows | null>(null);

/** The connect for a target, and where it stands. */
export function useFlow(target: FlowTarget): { flow: ConnectFlow; state: FlowState } {
  const flows = useContext(FlowsContext);
  if (!flows) throw new Error("useFlow is used outside of the signed-in part");
  const flow = flows.of(target);
  const subscribe = useCallback((listener: () => void) => flow.subscribe(listener), [flow]);
  const state = useSyncExternalStore(subscribe, () => flow.state);
  return { flow, state };
}

/** How to authorize a connection: anew what works, else the same account's place again. */
export function targetOf(connection: Connection): FlowTarget {
  if (connection.status === "connected") return { connectionId: connection.id };
  return { connectorId: connection.connector_slug, instanceId: connection.instance_id };
}
