import {
  accountOf,
  defaultMessages,
  errorText,
  plain,
  type Connection,
  type ConnectionEvent,
  type EventKind,
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
  /** What the button that helps is called; null when there is nothing to do. */
  remedy: string | null;
}

interface Told {
  tone: Tone;
  word: string;
  why: string;
  remedy: string | null;
}

const REASONS: Record<Reason, Told> = {
  awaiting_authorization: {
    tone: "wait",
    word: "Waiting for you",
    why: "The authorization was begun and is not finished yet.",
    remedy: "Continue",
  },
  authorization_denied: {
    tone: "bad",
    word: "Denied",
    why: "Access was not granted. If that was not on purpose, try again and allow it.",
    remedy: "Try again",
  },
  authorization_failed: {
    tone: "bad",
    word: "Failed",
    why: "The provider could not complete the authorization. Trying again often helps.",
    remedy: "Try again",
  },
  attempt_expired: {
    tone: "bad",
    word: "Expired",
    why: "The authorization was not finished in time.",
    remedy: "Start again",
  },
  nango_unavailable: {
    tone: "bad",
    word: "Not begun",
    why: "Nango could not be reached, so the authorization was not begun. Nothing is lost: try again in a moment.",
    remedy: "Try again",
  },
  nango_refused: {
    tone: "bad",
    word: "Refused",
    why: "Nango refused to begin. Its integration has to be looked at by whoever runs this service.",
    remedy: "Try again",
  },
  needs_reauthorization: {
    tone: "bad",
    word: "Sign in again",
    why: "The provider no longer accepts what it granted: a changed password or a withdrawn permission does that.",
    remedy: "Reconnect",
  },
  missing_upstream: {
    tone: "bad",
    word: "Lost",
    why: "Nango no longer holds this connection. Connect it again; it keeps its name and history.",
    remedy: "Reconnect",
  },
  account_mismatch: {
    tone: "warn",
    word: "Another account",
    why: "The reconnect came back as another account than before.",
    remedy: "Reconnect",
  },
  user_disconnected: {
    tone: "off",
    word: "Disconnected",
    why:
      "You disconnected it. Its stored credentials are deleted at Nango, which is asked until it confirms. " +
      "The provider may still list the permission: withdraw it in your account there.",
    remedy: "Connect again",
  },
};

export function standingOf(connection: Connection): Standing {
  if (connection.status === "connected") {
    if (connection.failing_since) {
      const why = `Access could not be renewed since ${exactly(connection.failing_since)}. That may pass by itself.`;
      return { tone: "warn", word: "Having trouble", why, remedy: "Reconnect" };
    }
    return { tone: "good", word: "Connected", why: null, remedy: null };
  }
  const reason = connection.status_reason;
  // A newer service may have reasons that are not known here.
  return (reason && REASONS[reason]) ?? { tone: "off", word: connection.status, why: null, remedy: "Connect again" };
}

/** What the provider or Nango said, where that adds to our own words. */
export function detailOf(connection: Connection): string | null {
  const ours = ["authorization_denied", "attempt_expired", "account_mismatch"];
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

const KINDS: Record<EventKind, string> = {
  attempt_started: "Authorization begun",
  attempt_failed: "Authorization ended without a grant",
  connected: "Connected",
  reauthorized: "Authorized again",
  disconnected: "Disconnected",
  updated: "Renamed or changed",
  credentials_failing: "Access could not be renewed",
  needs_reauthorization: "Access was withdrawn",
  missing_upstream: "No longer held by Nango",
  recovered: "Works again",
  account_mismatched: "Came back as another account",
  account_accepted: "Other account taken",
  token_refreshed: "Access renewed",
  adopted: "Taken over from the predecessor",
  restored: "Restored by an operator",
};

export function eventWords(event: ConnectionEvent): { title: string; tone: Tone } {
  const denied = event.kind === "attempt_failed" && event.status_reason === "authorization_denied";
  const title = denied ? "Access denied" : (KINDS[event.kind] ?? event.kind);
  const good: EventKind[] = ["connected", "reauthorized", "recovered", "account_accepted", "token_refreshed"];
  const quiet: EventKind[] = ["updated", "disconnected"];
  if (good.includes(event.kind)) return { title, tone: "good" };
  if (quiet.includes(event.kind)) return { title, tone: "off" };
  if (event.kind === "attempt_started") return { title, tone: "wait" };
  return { title, tone: event.kind === "credentials_failing" ? "warn" : "bad" };
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
      return { title: "Starting…", text: "The service is asked where to send you." };
    case "waiting":
      if (state.trouble) {
        const over = ["session_expired", "user_changed"].includes(state.trouble.code);
        return { title: "Still waiting", text: `${troubleText(state.trouble)}${over ? "" : " Trying again."}` };
      }
      if (state.window === "blocked") {
        return { title: "Your browser blocked the window", text: "Open it with the link instead; this page goes on waiting." };
      }
      if (state.window === "closed") {
        return { title: "The window was closed", text: "If you are not done, open it again. If you are, it shows here in a moment." };
      }
      return { title: "Waiting for you", text: "Go on in the other window. This page notices when you are done." };
    case "denied":
      return { title: "Access was denied", text: plain(state.detail) ?? REASONS.authorization_denied.why };
    case "failed":
      return { title: "The authorization failed", text: plain(state.detail) ?? REASONS.authorization_failed.why };
    case "expired":
      return { title: "It took too long", text: REASONS.attempt_expired.why };
    case "superseded":
      return { title: "Begun somewhere else", text: "A newer attempt, in another tab for example, has taken its place." };
    case "refused":
      return { title: "It could not be begun", text: troubleText(state.error) };
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
