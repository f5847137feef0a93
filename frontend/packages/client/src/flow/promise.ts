import type { Connection } from "../types.js";
import type { ConnectFlow, FlowOptions } from "./flow.js";
import type { FlowState, FlowTarget } from "./state.js";

/** Why a connect did not end connected. `state` tells; a later grant still shows in the list of connections. */
export class NotConnectedError extends Error {
  override readonly name = "NotConnectedError";
  /** Where the connect stood. */
  readonly state: FlowState;

  constructor(state: FlowState) {
    super(state.phase === "refused" ? state.error.detail : state.phase);
    this.state = state;
  }
}

/**
 * A connect as one promise, for a click that needs no more than its end. To be called in the click itself.
 * It gives up, where the flow offers more, when the window is blocked or closed.
 */
export function connectOnce(
  flow: ConnectFlow,
  target: FlowTarget,
  options: FlowOptions,
  signal?: AbortSignal,
): Promise<Connection> {
  return new Promise((resolve, reject) => {
    const onConnected = (connection: Connection) => end(() => resolve(connection));
    const ends = [
      flow.observe(onConnected),
      flow.subscribe(() => {
        const { state } = flow;
        if (isOver(state)) end(() => reject(new NotConnectedError(state)));
      }),
    ];
    const aborted = () => end(() => reject(new NotConnectedError(flow.state)));
    const end = (settle: () => void) => {
      for (const leave of ends) leave();
      signal?.removeEventListener("abort", aborted);
      settle();
    };
    signal?.addEventListener("abort", aborted);
    flow.start(target, { ...options, onConnected });
  });
}

function isOver(state: FlowState): boolean {
  if (state.phase === "waiting") return state.window === "blocked" || state.window === "closed";
  return state.phase !== "starting" && state.phase !== "connected";
}
