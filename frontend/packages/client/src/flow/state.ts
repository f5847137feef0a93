import type { PatchbayError } from "../error.js";
import type { Connection } from "../types.js";

/** What to connect: an account of a connector (by slug or id), or a connection again. */
export type FlowTarget = { connectorId: string; instanceId?: string | undefined } | { connectionId: string };

/**
 * The state of the window in which the user authorizes. It is shown to the user, and never ends an attempt.
 *
 * - `open`: the window is open
 * - `closed`: the window was open: the user closed it, or a later page severed the opener reference
 * - `unknown`: there is no reference to it: this page's opener policy severed it, a link opened it, or the page reloaded
 * - `blocked`: the browser did not open it; the user has to follow a link to `oauthUrl`
 */
export type FlowWindow = "open" | "closed" | "unknown" | "blocked";

/** An attempt in progress. */
export interface FlowAttempt {
  connectionId: string;
  attemptId: string | null;
  /** When the authorization link expires. */
  expiresAt: string | null;
  /** Where the user authorizes; null after a reload, because it is not stored. */
  oauthUrl: string | null;
}

/** How an attempt may end without a connection. Each has its own message to the user. */
export type FlowFailure =
  /** The user denied access at the provider. */
  | "denied"
  /** The provider or Nango rejected the authorization, or it failed. */
  | "failed"
  /** The user did not finish in time. */
  | "expired"
  /** The user canceled it, in another tab for example. */
  | "canceled"
  /** A newer attempt replaced it, in another tab for example. */
  | "superseded"
  /** The user authorized another account than before, and has to decide. */
  | "account_mismatch"
  /** The connection was disconnected meanwhile. */
  | "disconnected";

/** The state of a connect. */
export type FlowState =
  /** `canceled` after the user has canceled the attempt. */
  | { phase: "idle"; canceled?: boolean }
  /** The request for the authorization link is pending. */
  | { phase: "starting"; window: FlowWindow }
  /** The user is authorizing. `trouble` is the service's last error while the client retries. */
  | { phase: "waiting"; attempt: FlowAttempt; window: FlowWindow; trouble: PatchbayError | null }
  | { phase: "connected"; connection: Connection; alreadyConnected: boolean }
  /** `detail` is the service's message for a person. A later authorization still changes the state to `connected`. */
  | { phase: FlowFailure; connection: Connection; reason: string | null; detail: string | null }
  /** The service did not start an attempt. */
  | { phase: "refused"; error: PatchbayError };

/** The name of a connect's state. */
export type FlowPhase = FlowState["phase"];

/** What tells targets apart. */
export function keyOf(target: FlowTarget): string {
  return "connectionId" in target ? target.connectionId : `${target.connectorId}:${target.instanceId ?? ""}`;
}
