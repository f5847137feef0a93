import { useCallback, useEffect, useMemo, useSyncExternalStore } from "react";
import { ConnectFlow, type FlowTarget } from "../flow/flow.js";
import type { FlowState } from "../flow/state.js";
import type { ConnectDetails, Connection } from "../types.js";
import { usePatchbay } from "./context.js";

/** How to connect. */
export interface UseConnectOptions {
  /** What is said with the connect: a label, scopes, the account to offer. */
  details?: ConnectDetails | undefined;
  /** Called once for each connect that ends connected. */
  onConnected?: ((connection: Connection) => void) | undefined;
}

/** A connect and its controls. */
export interface UseConnect {
  /** Where it stands. */
  state: FlowState;
  /** Whether it is under way. */
  isBusy: boolean;
  /** Begins, or begins again. To be called in the click itself, for it opens the window. */
  start: () => void;
  /** Opens the window again for what is under way. In the click, too. */
  reopen: () => void;
  /** Says that the user has followed a link to `oauthUrl`. */
  followed: () => void;
  /** Stops waiting. What the user still does in the window counts all the same. */
  dismiss: () => void;
}

const IDLE: FlowState = { phase: "idle" };

/** A connect of a connector's account, or of a connection again, step by step; it outlives a reload of the page. */
export function useConnect(target: FlowTarget, { details, onConnected }: UseConnectOptions = {}): UseConnect {
  const { client, cache, messages } = usePatchbay();
  const connectionId = "connectionId" in target ? target.connectionId : null;
  const connectorId = "connectorId" in target ? target.connectorId : "";
  const instanceId = "connectorId" in target ? target.instanceId : undefined;
  const flow = useMemo(
    () => new ConnectFlow(client, connectionId === null ? { connectorId, instanceId } : { connectionId }),
    [client, connectionId, connectorId, instanceId],
  );
  useEffect(() => {
    flow.options = {
      details,
      words: { title: messages.windowTitle, text: messages.windowText },
      onConnected: (connection) => {
        onConnected?.(connection);
        cache.put(connection);
      },
    };
  });
  useEffect(() => {
    flow.resume();
    return () => flow.dispose();
  }, [flow]);
  const subscribe = useCallback((listener: () => void) => flow.subscribe(listener), [flow]);
  const state = useSyncExternalStore(
    subscribe,
    () => flow.state,
    () => IDLE,
  );
  const controls = useMemo(
    () => ({
      start: () => flow.start(),
      reopen: () => flow.reopen(),
      followed: () => flow.followed(),
      dismiss: () => flow.dismiss(),
    }),
    [flow],
  );
  return { state, isBusy: state.phase === "starting" || state.phase === "waiting", ...controls };
}
