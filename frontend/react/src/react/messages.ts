import type { ErrorCode } from "../client/error.js";
import type { FlowFailure } from "../flow/state.js";
import type { EventKind, Reason, Status } from "../types.js";

/** Every word that the components say. `name` is what a person calls the connector or the account. */
export interface Messages {
  /** What the opened window shows until it is sent to the provider. */
  windowTitle: string;
  windowText: string;

  connect: (name: string) => string;
  reconnect: (name: string) => string;
  connected: (name: string) => string;
  connecting: (name: string) => string;
  retry: string;
  dismiss: string;

  /** While the user's turn it is, by what can be seen of the window. */
  waiting: { open: string; closed: string; unknown: string; blocked: string };
  waitingTrouble: string;
  reopen: string;
  openHere: string;
  nowConnected: (name: string) => string;
  failures: Record<FlowFailure, (name: string) => string>;
  stillWorks: string;
  /** Of a grant that came back in another browser than the one that started it. The account stands below it, as `account`. */
  otherBrowser: string;
  itWasMe: string;

  status: Record<Status, string>;
  /** Why a connection is not connected, and what can be done about it. */
  reasons: Record<Reason, string>;
  advice: Partial<Record<Reason, string>>;
  failing: string;
  /** Where the connections could not be fetched, so that nothing is known of any. */
  statusUnknown: string;
  /** What is said of an error. */
  errors: Record<ErrorCode, string>;
  /** The id under which the service's log tells more of an error. */
  reference: (id: string) => string;

  catalog: string;
  search: string;
  category: string;
  allCategories: string;
  unavailable: string;
  notConfigured: string;
  noConnectors: string;
  found: (count: number) => string;
  loading: string;
  loadMore: string;
  addAccount: string;

  connections: string;
  noConnections: string;
  disconnectedOnes: (count: number) => string;
  account: (name: string) => string;
  sameAccount: string;
  lastUsed: string;
  neverUsed: string;
  actionsOf: (name: string) => string;
  rename: string;
  nameLabel: string;
  save: string;
  cancel: string;
  check: string;
  checked: string;
  history: string;
  noHistory: string;
  events: Record<EventKind, string>;
  disconnect: string;
  disconnectQuestion: (name: string) => string;
  disconnectMeaning: string;
  disconnected: (name: string) => string;
  disconnectedLater: (name: string) => string;
  keepAccount: (name: string) => string;

  pick: (name: string) => string;
  pickNone: string;
  pickNeedsAttention: (name: string, status: string) => string;

  /** A moment, as people write it. */
  time: (moment: Date) => string;
}

/** Words to replace: any of them, and within a group any of its. */
export type MessageOverrides = {
  [Key in keyof Messages]?: Messages[Key] extends (...given: never[]) => string
    ? Messages[Key]
    : Messages[Key] extends string
      ? string
      : Partial<Messages[Key]>;
};

/** The English words. */
export const defaultMessages: Messages = {
  windowTitle: "Connecting…",
  windowText: "Connecting…",

  connect: (name) => `Connect ${name}`,
  reconnect: (name) => `Reconnect ${name}`,
  connected: (name) => `${name} connected`,
  connecting: (name) => `Connecting ${name}…`,
  retry: "Try again",
  dismiss: "Cancel",

  waiting: {
    open: "Finish in the window that has opened.",
    closed: "The window seems to be closed. If you have not finished, open it again.",
    unknown: "Finish in the other window, or open it again.",
    blocked: "Your browser has blocked the window.",
  },
  waitingTrouble: "The server cannot be reached at the moment. It is asked again.",
  reopen: "Open the window again",
  openHere: "Open it here",
  nowConnected: (name) => `${name} is connected.`,
  failures: {
    denied: (name) => `${name} was not connected: access was declined.`,
    failed: (name) => `${name} could not be connected.`,
    expired: (name) => `${name} was not connected: the time for it is over.`,
    superseded: (name) => `${name} is being connected in another window.`,
    account_mismatch: (name) => `${name} came back as another account than before.`,
    disconnected: (name) => `${name} was disconnected meanwhile.`,
  },
  stillWorks: "The connection goes on working as before.",
  otherBrowser:
    "Access was granted in another browser than the one that asked for it. If that was not you, disconnect it.",
  itWasMe: "It was me",

  status: { connected: "Connected", disconnected: "Not connected", pending: "Connecting", error: "Needs attention" },
  reasons: {
    awaiting_authorization: "Waiting for you to allow access",
    authorization_denied: "Access was declined",
    authorization_failed: "The authorization did not work",
    attempt_expired: "The authorization was not finished in time",
    nango_unavailable: "The connection service could not be reached",
    nango_refused: "The connection service refused",
    needs_reauthorization: "The provider no longer accepts the authorization",
    missing_upstream: "The connection was deleted elsewhere",
    account_mismatch: "It was authorized as another account",
    user_disconnected: "You have disconnected it",
  },
  advice: {
    awaiting_authorization: "Finish in the other window, or connect again.",
    authorization_denied: "Connect again, and allow access.",
    authorization_failed: "Connect again.",
    attempt_expired: "Connect again.",
    nango_unavailable: "Try again in a few minutes.",
    nango_refused: "Try again; if it stays so, tell support.",
    needs_reauthorization: "Reconnect it.",
    missing_upstream: "Connect again.",
    account_mismatch: "Keep the other account, or reconnect with the right one.",
  },
  failing: "The provider does not answer as it should. It is tried again.",
  statusUnknown: "Status unknown. Trying again.",
  errors: {
    session_expired: "Your session has ended. Sign in again.",
    user_changed: "Another user has signed in.",
    token_unavailable: "Your sign-in could not be renewed. Try again in a moment.",
    network: "The server could not be reached.",
    unreadable: "The server's answer makes no sense. Try again in a moment.",

    invalid_request: "That cannot be done the way it was asked for.",
    unauthenticated: "You are not signed in.",
    invalid_signature: "The sender could not be verified.",
    not_found: "There is nothing here.",
    connector_not_found: "There is no such connector.",
    connection_not_found: "There is no such connection.",
    method_not_allowed: "That cannot be done here.",
    not_connected: "It is not connected.",
    service_key_needed: "You are not allowed to do that.",
    insufficient_scope: "You are not allowed to do that.",
    user_required: "Nobody is named for whom to do that.",
    needs_reauthorization: "The provider no longer accepts the authorization. Reconnect it.",
    account_mismatch: "It was authorized as another account. Keep that one, or reconnect with the right one.",
    provider_unavailable: "The provider does not answer as it should. Try again in a moment.",
    request_timeout: "Sending it took too long. Try again.",
    connector_unavailable: "This connector is not available.",
    connector_not_configured: "This connector is not set up yet.",
    ambiguous_connection: "Several accounts are connected. Choose one of them.",
    idempotency_key_under_way: "The same is under way already. Wait a moment.",
    idempotency_key_reused: "Something else was asked for before. Begin again.",
    payload_too_large: "That is too much to send.",
    unsupported_media_type: "The server cannot read what was sent.",
    internal: "Something broke on the server.",
    nango_misconfigured: "Connecting is not set up correctly. Tell support.",
    nango_error: "The connection service's answer makes no sense. If it stays so, tell support.",
    nango_disabled: "Connecting is switched off at the moment.",
    nango_unavailable: "The connection service cannot be reached at the moment.",
    nango_rate_limited: "The connection service asks for a pause.",
    nango_timeout: "The connection service did not answer in time.",
    keys_unavailable: "Your sign-in cannot be verified at the moment.",
    database_unavailable: "The server cannot do that at the moment.",
    rate_limited: "That was too often. Wait a moment.",
    overloaded: "The server has too much to do at the moment.",
    stopping: "The server is being restarted.",
    starting: "The server is starting.",
  },
  reference: (id) => `Reference: ${id}`,

  catalog: "Connectors",
  search: "Search connectors",
  category: "Category",
  allCategories: "All categories",
  unavailable: "Not available",
  notConfigured: "Not set up yet",
  noConnectors: "No connector fits.",
  found: (count) => (count === 1 ? "1 connector" : `${count} connectors`),
  loading: "Loading…",
  loadMore: "Show more",
  addAccount: "Connect another account",

  connections: "Connections",
  noConnections: "Nothing is connected yet.",
  disconnectedOnes: (count) => `Disconnected (${count})`,
  account: (name) => `Account: ${name}`,
  sameAccount: "This account is connected more than once.",
  lastUsed: "Last used",
  neverUsed: "Not used yet",
  actionsOf: (name) => `Actions for ${name}`,
  rename: "Rename",
  nameLabel: "Name",
  save: "Save",
  cancel: "Cancel",
  check: "Check",
  checked: "It works.",
  history: "History",
  noHistory: "Nothing has happened yet.",
  events: {
    attempt_started: "Authorization begun",
    attempt_failed: "Authorization failed",
    connected: "Connected",
    reauthorized: "Authorized again",
    disconnected: "Disconnected",
    updated: "Changed",
    credentials_failing: "The provider does not answer as it should",
    needs_reauthorization: "Needs to be authorized again",
    missing_upstream: "Deleted elsewhere",
    recovered: "Works again",
    account_mismatched: "Authorized as another account",
    account_accepted: "Other account accepted",
    token_refreshed: "Credentials renewed",
    adopted: "Taken over from before",
  },
  disconnect: "Disconnect",
  disconnectQuestion: (name) => `Disconnect ${name}?`,
  disconnectMeaning:
    "Workflows that use it stop working at once, and the stored credentials are deleted. You can connect it again at any time.",
  disconnected: (name) => `${name} is disconnected.`,
  disconnectedLater: (name) => `${name} is disconnected. Its stored credentials are being deleted.`,
  keepAccount: (name) => `Keep ${name}`,

  pick: (name) => `${name} account`,
  pickNone: "Choose an account",
  pickNeedsAttention: (name, status) => `${name} (${status})`,

  time: (moment) => moment.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }),
};

/** The English words, with others in the place of some. */
export function mergeMessages(overrides: MessageOverrides | undefined): Messages {
  if (!overrides) return defaultMessages;
  const merged: Record<string, unknown> = { ...defaultMessages };
  for (const [key, value] of Object.entries(overrides)) {
    const before = merged[key];
    merged[key] = isGroup(before) && isGroup(value) ? { ...before, ...value } : (value ?? before);
  }
  return merged as unknown as Messages;
}

function isGroup(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
