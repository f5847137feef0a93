import type { PatchbayError } from "../error.js";
import type { Connection } from "../types.js";

/** What to connect: an account of a connector (by slug or id), or a connection again. */
export type FlowTarget = { connectorId: string; instanceId?: string | undefined } | { connectionId: string };

/**
 * What is known of the window in which the user authorizes. It is told to the user, and never the reason to give up.
 *
 * - `open`: it can be seen to be open
 * - `closed`: it could be, and no longer is: closed by the user, or cut off by a page on the way
 * - `unknown`: it cannot be seen: cut off by this page's own opener policy, opened by a link, or from before a reload
 * - `blocked`: the browser did not open it; the user has to, by a link to `oauthUrl`
 */
export type FlowWindow = "open" | "closed" | "unknown" | "blocked";

/** An attempt that is under way. */
export interface FlowAttempt {
  connectionId: string;
  attemptId: string | null;
  /** Until when the user may begin. */
  expiresAt: string | null;
  /** Where the user authorizes; null after a reload, for it is not kept. */
  oauthUrl: string | null;
}

/** How an attempt may end without a connection, each a different thing to tell the user. */
export type FlowFailure =
  /** The user said no at the provider. */
  | "denied"
  /** The provider or Nango refused, or the authorization broke. */
  | "failed"
  /** The user did not finish in time. */
  | "expired"
  /** The user canceled it, in another tab for example. */
  | "canceled"
  /** A newer attempt has taken its place, in another tab for example. */
  | "superseded"
  /** It came back as another account than before; the user has to decide. */
  | "account_mismatch"
  /** The connection was ended meanwhile. */
  | "disconnected";

/** Where a connect stands. */
export type FlowState =
  /** `canceled` after the user has canceled the attempt. */
  | { phase: "idle"; canceled?: boolean }
  /** The service is asked where to send the window. */
  | { phase: "starting"; window: FlowWindow }
  /** The user's turn. `trouble` is why the service cannot be asked at the moment; it is asked again. */
  | { phase: "waiting"; attempt: FlowAttempt; window: FlowWindow; trouble: PatchbayError | null }
  | { phase: "connected"; connection: Connection; alreadyConnected: boolean }
  /** `detail` is the service's, for a person to read. A grant that comes after all still makes it `connected`. */
  | { phase: FlowFailure; connection: Connection; reason: string | null; detail: string | null }
  /** The service did not begin an attempt. */
  | { phase: "refused"; error: PatchbayError };

/** Where a connect stands, in one word. */
export type FlowPhase = FlowState["phase"];

/** What tells targets apart. */
export function keyOf(target: FlowTarget): string {
  return "connectionId" in target ? target.connectionId : `${target.connectorId}:${target.instanceId ?? ""}`;
}
