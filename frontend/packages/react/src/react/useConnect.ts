import { useCallback, useEffect, useMemo, useRef, useSyncExternalStore } from "react";
import type { ConnectDetails, Connection, FlowState, FlowTarget } from "@patchbay/client";
import { useButtonMessages, usePatchbay } from "./context.js";

/** How to connect. */
export interface UseConnectOptions {
  /** Sent with the connect: a label, scopes, the account to offer, the connector's parameters. */
  details?: ConnectDetails | undefined;
  /** Called once for each connect that ends connected; after a reload by whatever component shows it. */
  onConnected?: ((connection: Connection) => void) | undefined;
}

/** A connect and its controls. */
export interface UseConnect {
  /** The state of the connect: the same for all components with this target. */
  state: FlowState;
  /** `true` while an attempt is in progress. */
  isBusy: boolean;
  /** Starts an attempt, or starts again. Call it in the click handler itself, because it opens the window. */
  start: () => void;
  /** The same with the values of the connector's parameters. */
  startWith: (parameters: Record<string, string>) => void;
  /** Focuses the window of the attempt in progress, or opens it again. Call it in the click handler, too. */
  reopen: () => void;
  /** Reports that the user has followed a link to `oauthUrl`. */
  followed: () => void;
  /** Cancels the attempt in progress; it reports nothing afterwards. Removes the message of an attempt that has ended. */
  dismiss: () => void;
}

const IDLE: FlowState = { phase: "idle" };

/** A connect of a connector's account, or of a connection again, step by step; it outlives a reload of the page. */
export function useConnect(target: FlowTarget, options: UseConnectOptions = {}): UseConnect {
  const { flows } = usePatchbay();
  const messages = useButtonMessages();
  const subscribe = useCallback((listener: () => void) => flows.subscribe(listener), [flows]);
  const find = () => flows.of(target);
  const flow = useSyncExternalStore(subscribe, find, find);
  const state = useSyncExternalStore(
    subscribe,
    () => flow.state,
    () => IDLE,
  );
  const latest = useRef({ target, messages, ...options });
  useEffect(() => {
    latest.current = { target, messages, ...options };
  });
  const onConnected = useCallback((connection: Connection) => latest.current.onConnected?.(connection), []);
  useEffect(() => flow.observe(onConnected), [flow, onConnected]);
  const controls = useMemo(() => {
    const startWith = (parameters?: Record<string, string>) => {
      const { target, messages, details } = latest.current;
      const words = { title: messages.windowTitle, text: messages.windowText };
      const all = parameters ? { ...details, parameters: { ...details?.parameters, ...parameters } } : details;
      flow.start(target, { details: all, words, onConnected });
    };
    return {
      start: () => startWith(),
      startWith,
      reopen: () => flow.reopen(),
      followed: () => flow.followed(),
      dismiss: () => flow.dismiss(),
    };
  }, [flow, onConnected]);
  return { state, isBusy: state.phase === "starting" || state.phase === "waiting", ...controls };
}
