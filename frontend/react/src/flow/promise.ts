import type { Client } from "../client/client.js";
import type { Connection } from "../types.js";
import { ConnectFlow, type FlowOptions, type FlowTarget } from "./flow.js";
import type { FlowState } from "./state.js";

/** Why a connect did not end connected. `state` tells; a later grant still shows in the list of connections. */
export class NotConnectedError extends Error {
  override readonly name = "NotConnectedError";
  /** Where the connect stood. */
  readonly state: FlowState;

  constructor(state: FlowState) {
    super(describe(state));
    this.state = state;
  }
}

/**
 * A connect as one promise, for a click that needs no more than its end. To be called in the click itself.
 * It gives up, where a `ConnectFlow` would offer more, when the window is blocked or closed.
 */
export function connectOnce(
  client: Client,
  target: FlowTarget,
  options: FlowOptions = {},
  signal?: AbortSignal,
): Promise<Connection> {
  return new Promise((resolve, reject) => {
    const flow = new ConnectFlow(client, target, options);
    const leave = flow.subscribe(() => {
      const { state } = flow;
      if (state.phase === "connected") end(() => resolve(state.connection));
      else if (isOver(state)) end(() => reject(new NotConnectedError(state)));
    });
    const aborted = () => end(() => reject(new NotConnectedError(flow.state)));
    const end = (settle: () => void) => {
      leave();
      flow.dispose();
      signal?.removeEventListener("abort", aborted);
      settle();
    };
    signal?.addEventListener("abort", aborted);
    flow.start();
  });
}

function isOver(state: FlowState): boolean {
  if (state.phase === "waiting") return state.window === "blocked" || state.window === "closed";
  return state.phase !== "starting";
}

function describe(state: FlowState): string {
  if (state.phase === "refused") return state.error.detail;
  if (state.phase === "waiting") return `The window was ${state.window}`;
  return ("detail" in state ? state.detail : null) ?? state.phase;
}
