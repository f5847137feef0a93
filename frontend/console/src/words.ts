import {
  accountOf,
  defaultMessages,
  errorText,
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

const REASONS: ByName<Reason, Omit<Standing, "remedy"> & { why: string }> = {
  awaiting_authorization: {
    tone: "wait",
    word: "Waiting for you",
    why: "You have not finished allowing access. Finish in the other window, or start again here.",
  },
  authorization_denied: {
    tone: "bad",
    word: "Denied",
    why: "Access was not allowed. Try again and allow it.",
  },
  authorization_failed: {
    tone: "bad",
    word: "Failed",
    why: "The provider could not complete the authorization. Trying again often helps.",
  },
  attempt_expired: {
    tone: "bad",
    word: "Expired",
    why: "The authorization was not finished in time.",
  },
  nango_unavailable: {
    tone: "bad",
    word: "Not started",
    why: "The connection service could not be reached. Try again in a moment.",
  },
  nango_refused: {
    tone: "bad",
    word: "Not started",
    why: "The connection service refused to start. If this happens again, tell support.",
  },
  needs_reauthorization: {
    tone: "bad",
    word: "Access ended",
    why: "The provider no longer accepts the authorization, for example after a changed password or a revoked permission.",
  },
  missing_upstream: {
    tone: "bad",
    word: "Credentials deleted",
    why: "The stored credentials were deleted. Reconnect the account: it keeps its name and history.",
  },
  account_mismatch: {
    tone: "warn",
    word: "Another account",
    why: "You reconnected with another account than before.",
  },
  authorization_canceled: {
    tone: "bad",
    word: "Canceled",
    why: "You canceled the reconnect, and the connection does not work without it.",
  },
  user_disconnected: {
    tone: "off",
    word: "Disconnected",
    why:
      "You disconnected it, and its stored credentials are deleted. The provider may still list the permission: you can " +
      "revoke it in your account there.",
  },
  removed: {
    tone: "off",
    word: "Removed",
    why: "It is no longer on your list.",
  },
};

export function standingOf(connection: Connection): Standing {
  if (connection.status === "connected") {
    if (connection.failing_since) {
      const why = `Access could not be renewed since ${exactly(connection.failing_since)}. This may pass by itself.`;
      return { tone: "warn", word: "Having trouble", why, remedy: "Reconnect" };
    }
    return { tone: "good", word: "Connected", why: null, remedy: null };
  }
  const reason = connection.status_reason;
  const remedy = remedyOf(connection);
  // A newer service may have reasons that are not known here.
  const known = REASONS[reason ?? ""];
  return known ? { ...known, remedy } : { tone: "off", word: connection.status, why: null, remedy };
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

/** What a flow has to tell; null while there is nothing to tell, or the connection's own standing tells it. */
export function flowWords(state: FlowState): { title: string; text: string } | null {
  switch (state.phase) {
    case "starting":
      if (state.window === "closed") {
        return { title: "The window was closed", text: "Open it again to go on, or cancel." };
      }
      return { title: "Starting…", text: "The other window opens the provider’s page in a moment." };
    case "waiting":
      if (state.trouble) {
        const over = ["session_expired", "user_changed"].includes(state.trouble.code);
        return { title: "Still waiting", text: `${troubleText(state.trouble)}${over ? "" : " Trying again."}` };
      }
      if (state.window === "blocked") {
        return { title: "Your browser blocked the window", text: "Open it with the link instead. This page waits for you." };
      }
      if (state.window === "closed") {
        return { title: "The window was closed", text: "If you have not finished, open it again. If you have, the result shows here in a moment." };
      }
      return { title: "Waiting for you", text: "Finish in the other window. This page shows the result." };
    case "denied":
      return { title: "Access was denied", text: REASONS.authorization_denied.why };
    case "failed":
      return { title: "The authorization failed", text: REASONS.authorization_failed.why };
    case "expired":
      return { title: "It took too long", text: REASONS.attempt_expired.why };
    case "superseded":
      return { title: "Started in another window", text: "A newer attempt, in another tab for example, replaced this one." };
    case "canceled":
      return { title: "Canceled", text: "The authorization was canceled in another window." };
    case "refused":
      return { title: "The authorization could not start", text: troubleText(state.error) };
    default:
      return null;
  }
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
