/** Patchbay without a framework: the client, its event stream, and the connect flow. */
export { backoff } from "./backoff.js";
export { Client, createClient } from "./client.js";
export type { CallOptions, ConnectOptions } from "./client.js";
export { PatchbayError } from "./error.js";
export type { ErrorCode } from "./error.js";
export { EventStream } from "./events.js";
export type { Notice, StreamState } from "./events.js";
export { accountName, accountOf, best, freeInstance, isFromElsewhere, isOf, missingScopes, nameOf, plain } from "./find.js";
export type { ClientOptions } from "./http.js";
export type { Session } from "./session.js";
export { allPages } from "./pages.js";
export { ConnectFlow, connectFlow } from "./flow/flow.js";
export type { FlowOptions } from "./flow/flow.js";
export { Flows } from "./flow/flows.js";
export { connectOnce, NotConnectedError } from "./flow/promise.js";
export type { FlowAttempt, FlowFailure, FlowPhase, FlowState, FlowTarget, FlowWindow } from "./flow/state.js";
export type { WindowWords } from "./flow/window.js";
export type * from "./types.js";
