import type { ByName, ErrorCode, EventKind, FlowFailure, Parameter, Reason, Status } from "@patchbay/client";
import { buttonMessages, type ButtonMessages } from "./buttonMessages.js";

/** The messages of a connect button and of what it says. `name` is what a person calls the connector or the account. */
export interface ConnectMessages extends ButtonMessages {
  retry: string;
  dismiss: string;
  /** While the user's turn it is, by what can be seen of the window. */
  waiting: { open: string; closed: string; unknown: string; blocked: string };
  /** After the reason why the service cannot be asked. */
  tryingAgain: string;
  reopen: string;
  openHere: string;
  nowConnected: (name: string) => string;
  /** After the user has canceled it. */
  canceled: string;
  failures: Record<FlowFailure, (name: string) => string>;
  stillWorks: string;
  /** Of a grant that came back in another browser than the one that started it. The account stands below it, as `account`. */
  otherBrowser: string;
  itWasMe: string;
  /** What is said of an error. Without a message here, `internal` if the server failed, else the service's own detail. */
  errors: Partial<Record<ErrorCode, string>>;
  /** The id under which the service's log tells more of an error. */
  reference: (id: string) => string;
  /** Opens what an operator needs of an error. */
  details: string;
  account: (name: string) => string;
  disconnect: string;
  /** Accepts the other account that a reconnect came back as. */
  useAccount: (name: string) => string;
  /** The label of a parameter that may be left out, and its example. */
  optional: (title: string) => string;
  example: (example: string) => string;
  /** What is wrong with the value of a parameter, empty if it is missing. */
  parameterError: (parameter: Parameter, value: string) => string;
}

/** All messages of the components. */
export interface Messages extends ConnectMessages {
  status: Record<Status, string>;
  /** Why a connection is not connected, and what can be done about it. */
  reasons: ByName<Reason, string>;
  advice: Partial<ByName<Reason, string>>;
  failing: string;
  /** Where the connections could not be fetched, so that nothing is known of any. */
  statusUnknown: string;
  /** Before the scopes that were not granted, and on the button that asks for them again. */
  missingScopes: string;
  askForScopes: string;
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
  sameAccount: string;
  lastUsed: string;
  neverUsed: string;
  actionsOf: (name: string) => string;
  rename: string;
  nameLabel: string;
  save: string;
  saved: string;
  cancel: string;
  check: string;
  checked: string;
  history: string;
  events: ByName<EventKind, string>;
  /** Who caused an event. */
  actors: ByName<"user" | "service", string>;
  /** Before the name from before and the one from after a rename, and in the place of one that is missing. */
  renamed: string;
  nameFrom: string;
  nameTo: string;
  noName: string;
  disconnectQuestion: (name: string) => string;
  disconnectMeaning: string;
  remove: string;
  removed: (name: string) => string;
  disconnected: (name: string) => string;
  disconnectedLater: (name: string) => string;
  pick: (name: string) => string;
  pickNone: string;
  /** Of connections with the same name. */
  pickConnectedOn: (name: string, time: string) => string;
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

/** The English messages of a connect button and of what it says. */
export const connectMessages: ConnectMessages = {
  ...buttonMessages,
  retry: "Try again",
  dismiss: "Cancel",
  waiting: {
    open: "Finish in the other window.",
    closed: "The window is closed. If you have not finished, open it again.",
    unknown: "Finish in the other window, or open it again.",
    blocked: "Your browser has blocked the window.",
  },
  tryingAgain: "Trying again.",
  reopen: "Open it again",
  openHere: "Open it",
  nowConnected: (name) => `${name} is connected.`,
  canceled: "Canceled.",
  failures: {
    denied: (name) => `${name} was not connected: access was declined.`,
    failed: (name) => `${name} was not connected.`,
    expired: (name) => `${name} was not connected: it took too long.`,
    canceled: (name) => `${name} was not connected: it was canceled.`,
    superseded: (name) => `${name} is being connected in another window.`,
    account_mismatch: (name) => `${name} came back as another account.`,
    disconnected: (name) => `${name} was disconnected.`,
  },
  stillWorks: "The connection still works.",
  otherBrowser:
    "Access was granted in another browser than the one that asked for it. If that was not you, disconnect it.",
  itWasMe: "It was me",
  account: (name) => `Account: ${name}`,
  disconnect: "Disconnect",
  useAccount: (name) => `Use ${name}`,
  optional: (title) => `${title} (optional)`,
  example: (example) => `Example: ${example}`,
  parameterError: ({ title, example }, value) =>
    (value ? `${title} is not in the right form.` : `Enter the ${title}.`) + (example ? ` Example: ${example}` : ""),
  errors: {
    session_expired: "Your session has ended. Sign in again.",
    user_changed: "Another user has signed in.",
    token_unavailable: "Your sign-in could not be renewed.",
    network: "The server could not be reached.",
    unreadable: "The server's answer is not the expected one.",
    invalid_request: "That cannot be done.",
    connector_unavailable: "This connector is not available.",
    connector_not_configured: "This connector is not set up yet.",
    internal: "The server cannot do that at the moment.",
    nango_error: "The connection service failed. If it stays so, tell support.",
    nango_unavailable: "The connection service could not be reached.",
    rate_limited: "That was too often. Wait a minute.",
  },
  reference: (id) => `Reference: ${id}`,
  details: "Details",
};

/** The other English messages. */
const otherMessages: Omit<Messages, keyof ConnectMessages> = {
  status: { connected: "Connected", disconnected: "Not connected", pending: "Connecting", error: "Needs attention" },
  reasons: {
    awaiting_authorization: "Waiting for you to allow access",
    authorization_denied: "Access was declined",
    authorization_failed: "The provider could not complete the authorization",
    attempt_expired: "It was not finished in time",
    nango_unavailable: "The connection service could not be reached",
    nango_refused: "The connection service refused",
    needs_reauthorization: "The provider no longer accepts the authorization",
    missing_upstream: "The stored credentials were deleted",
    account_mismatch: "It was authorized as another account",
    user_disconnected: "You disconnected it, and its stored credentials are deleted",
    authorization_canceled: "You canceled the reconnect",
    removed: "You removed it",
  },
  advice: {
    awaiting_authorization: "Finish in the other window, or connect again.",
    authorization_denied: "Connect again, and allow access.",
    authorization_canceled: "Reconnect it.",
    nango_refused: "Try again. If it stays so, tell support.",
    missing_upstream: "Reconnect it: it keeps its name and history.",
    needs_reauthorization: "Reconnect it.",
    user_disconnected: "The provider may still list the permission. You can revoke it in your account there.",
    authorization_failed: "Trying again often helps.",
    nango_unavailable: "Try again in a moment.",
    account_mismatch: "Use the other account, or reconnect with the account from before.",
  },
  failing: "The provider does not answer as it should. Trying again.",
  statusUnknown: "Status unknown. Trying again.",
  missingScopes: "Not allowed:",
  askForScopes: "Allow the rest",
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
  sameAccount: "This account is connected more than once.",
  lastUsed: "Last used",
  neverUsed: "Not used yet",
  actionsOf: (name) => `Actions for ${name}`,
  rename: "Rename",
  nameLabel: "Name",
  save: "Save",
  saved: "Saved.",
  cancel: "Cancel",
  check: "Check",
  checked: "It works.",
  history: "History",
  events: {
    attempt_started: "Authorization started",
    attempt_failed: "Authorization failed",
    attempt_canceled: "Authorization canceled",
    connected: "Connected",
    reauthorized: "Reconnected",
    disconnected: "Disconnected",
    removed: "Removed from the list",
    updated: "Changed",
    credentials_failing: "Access could not be renewed",
    needs_reauthorization: "Access ended",
    missing_upstream: "Stored credentials were deleted",
    recovered: "Works again",
    account_mismatched: "Reconnected with another account",
    account_accepted: "Other account accepted",
    account_identified: "Account identified",
    token_refreshed: "Access renewed",
    adopted: "Imported",
    restored: "Restored",
  },
  renamed: "Renamed",
  actors: { user: "By you", service: "By a service" },
  nameFrom: "from",
  nameTo: "to",
  noName: "no name",
  disconnectQuestion: (name) => `Disconnect ${name}?`,
  disconnectMeaning:
    "Workflows that use it stop working, and the stored credentials are deleted. You can connect it again.",
  remove: "Remove",
  removed: (name) => `${name} is removed.`,
  disconnected: (name) => `${name} is disconnected.`,
  disconnectedLater: (name) => `${name} is disconnected. Its stored credentials are being deleted.`,
  pick: (name) => `${name} account`,
  pickNone: "Choose an account",
  pickConnectedOn: (name, time) => `${name}, connected ${time}`,
  pickNeedsAttention: (name, status) => `${name} (${status})`,
  time: (moment) => moment.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }),
};

/** All English messages. */
export const defaultMessages: Messages = /* @__PURE__ */ Object.assign({}, connectMessages, otherMessages);
