import type { Connection } from "../types.js";
import type { FlowFailure, FlowState } from "./state.js";

/** What a connection, as the service tells of it, means for an attempt. */
export type Verdict = Extract<FlowState, { connection: Connection }> | { phase: "pending" };

/** What has become of this attempt. */
export function judge(connection: Connection, attemptId: string | null): Verdict {
  const newest = connection.attempt ?? null;
  // A reconnect that did not work leaves a connection connected, too; that of another account may have been accepted since.
  const granted =
    newest === null ||
    newest.outcome === "succeeded" ||
    newest.outcome === "superseded" ||
    newest.error_code === "account_mismatch";
  if (connection.status === "connected" && granted) {
    return { phase: "connected", connection, alreadyConnected: false };
  }
  if (newest?.outcome === "canceled" && (attemptId === null || newest.id === attemptId)) {
    return { phase: "canceled", connection, reason: null, detail: null };
  }
  if (connection.status === "disconnected") {
    return { phase: "disconnected", connection, reason: connection.status_reason ?? null, detail: null };
  }
  if (newest !== null && attemptId !== null && newest.id !== attemptId) {
    return { phase: "superseded", connection, reason: null, detail: null };
  }
  if (newest?.outcome == null && connection.status !== "error") return { phase: "pending" };
  const reason = newest?.error_code ?? connection.status_reason ?? null;
  const detail = newest?.error_message ?? connection.last_error ?? null;
  return { phase: failure(newest?.outcome ?? null, reason), connection, reason, detail };
}

function failure(outcome: string | null, reason: string | null): FlowFailure {
  if (outcome === "superseded") return "superseded";
  if (outcome === "expired" || reason === "attempt_expired") return "expired";
  if (reason === "authorization_denied") return "denied";
  if (reason === "account_mismatch") return "account_mismatch";
  return "failed";
}
