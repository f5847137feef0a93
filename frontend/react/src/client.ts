/** Patchbay without a framework: the client, its event stream, and the connect flow. */
export { Client, createClient } from "./client/client.js";
export type { CallOptions, ConnectOptions } from "./client/client.js";
export { PatchbayError } from "./client/error.js";
export type { ErrorCode } from "./client/error.js";
export { EventStream } from "./client/events.js";
export type { Notice, StreamState } from "./client/events.js";
export type { ClientOptions } from "./client/http.js";
export type { Session } from "./client/session.js";
export { ConnectFlow, connectFlow } from "./flow/flow.js";
export type { FlowOptions } from "./flow/flow.js";
export type { FlowAttempt, FlowFailure, FlowPhase, FlowState, FlowTarget, FlowWindow } from "./flow/state.js";
export type { WindowWords } from "./flow/window.js";
export type * from "./types.js";
