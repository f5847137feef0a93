import {
  accountOf,
  defaultMessages,
  errorText,
  flowText,
  plain,
  type ByName,
  type Connection,
  type FlowState,
  type Reason,
} from "@patchbay/react";

/** How something stands, which is what its colour goes by. */
export type Tone = "good" | "bad" | "wait" | "warn" | "off";

/** How a connection stands: in a word, in a sentence, and what can be done about it. */
export interface Standing {
  tone: Tone;
  word: string;
  why: string | null;
  /** The text of the button that helps; null when there is nothing to do. */
  remedy: string | null;
}

/** The short word for a reason, and its colour. The sentence beside it is the package's. */
const REASONS: ByName<Reason, Pick<Standing, "tone" | "word">> = {
  awaiting_authorization: { tone: "wait", word: "Waiting for you" },
  authorization_denied: { tone: "bad", word: "Denied" },
  authorization_failed: { tone: "bad", word: "Failed" },
  attempt_expired: { tone: "bad", word: "Expired" },
  nango_unavailable: { tone: "bad", word: "Not started" },
  nango_refused: { tone: "bad", word: "Not started" },
  needs_reauthorization: { tone: "bad", word: "Access ended" },
  missing_upstream: { tone: "bad", word: "Credentials deleted" },
  account_mismatch: { tone: "warn", word: "Another account" },
  authorization_canceled: { tone: "bad", word: "Canceled" },
  user_disconnected: { tone: "off", word: "Disconnected" },
  removed: { tone: "off", word: "Removed" },
};

export function standingOf(connection: Connection): Standing {
  if (connection.status === "connected") {
    if (connection.failing_since) {
      const why = `Access could not be renewed since ${exactly(connection.failing_since)}. This may pass by itself.`;
      return { tone: "warn", word: "Having trouble", why, remedy: "Reconnect" };
    }
    return { tone: "good", word: "Connected", why: null, remedy: null };
  }
  const reason = connection.status_reason ?? "";
  const remedy = remedyOf(connection);
  // A newer service may have reasons that are not known here.
  const known = REASONS[reason];
  return known ? { ...known, why: whyOf(reason), remedy } : { tone: "off", word: connection.status, why: null, remedy };
}

function whyOf(reason: string): string {
  const { reasons, advice } = defaultMessages;
  return [`${reasons[reason]}.`, advice[reason]].filter(Boolean).join(" ");
}

/** The text of the button that authorizes a connection: it is reconnected while there is something to repair. */
export function remedyOf(connection: Connection): string {
  return isNew(connection) ? "Connect" : "Reconnect";
}

/** When a workflow last used a connection; null if none did since it was connected. */
export function lastUse({ last_synced_at: last, connected_at: connected }: Connection): string | null {
  return last && last !== connected ? last : null;
}

/** Whether a connection never was connected, or was disconnected. */
export function isNew(connection: Connection): boolean {
  return connection.connected_at == null || connection.status === "disconnected";
}

/** The text of the provider or the service, where that adds to our own. */
export function detailOf(connection: Connection): string | null {
  const ours = ["authorization_denied", "attempt_expired", "account_mismatch", "authorization_canceled"];
  if (connection.status !== "error" || ours.includes(connection.status_reason ?? "")) return null;
  return plain(connection.last_error);
}

/** The last reconnect of a connection that goes on working, where it came to nothing. */
export function failedReconnect(connection: Connection): string | null {
  const attempt = connection.attempt;
  if (connection.status !== "connected" || attempt?.kind !== "reconnect") return null;
  if (attempt.outcome === "expired") return "The last reconnect was not finished in time. The connection still works.";
  if (attempt.outcome !== "failed") return null;
  const how = attempt.error_code === "authorization_denied" ? "was denied" : "failed";
  return `The last reconnect ${how}. The connection still works.`;
}

/** Whether a flow has something to tell that the connection's own standing does not. */
export function isTold(state: FlowState): boolean {
  return !["idle", "connected", "disconnected", "account_mismatch"].includes(state.phase);
}

/** What a connect has to say; empty while there is nothing to say, or the connection's own standing says it. */
export function saidOf(state: FlowState, name: string): string {
  return isTold(state) ? flowText(state, name, defaultMessages) : "";
}

/** What went wrong, in the words that the components have for it. */
export function troubleText(error: Error): string {
  return errorText(error, defaultMessages);
}

/** The name of a connection: its user's, or the provider's. */
export function nameOf(connection: Connection): string {
  return plain(connection.label) ?? accountOf(connection) ?? "New account";
}

const STEPS: [Intl.RelativeTimeFormatUnit, number][] = [
  ["day", 86_400],
  ["hour", 3_600],
  ["minute", 60],
];

/** A time that has passed, as people say it: relative where it is near, else the date. It is never in the future. */
export function when(time: string, now: number): string {
  const seconds = Math.min(0, Math.round((Date.parse(time) - now) / 1000));
  if (Math.abs(seconds) < 45) return "just now";
  if (Math.abs(seconds) > 7 * 86_400) return new Intl.DateTimeFormat("en", { dateStyle: "medium" }).format(new Date(time));
  const [unit, length] = STEPS.find(([, step]) => Math.abs(seconds) >= step) ?? ["minute", 60];
  return new Intl.RelativeTimeFormat("en", { numeric: "auto" }).format(Math.round(seconds / length), unit);
}

/** The whole time, for who wants to know exactly. */
export function exactly(time: string): string {
  return new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "medium" }).format(new Date(time));
}
