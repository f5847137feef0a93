import { randomId } from "./random.js";
import type { Account, Connection, Status } from "./types.js";

/** Whether a connection is one of this connector's, named by slug or id; and of this instance, if one is named. */
export function isOf(connection: Connection, connectorId: string, instanceId?: string): boolean {
  const connector = connection.connector_slug === connectorId || connection.connector_id === connectorId;
  return connector && (instanceId === undefined || connection.instance_id === instanceId);
}

const BEST_FIRST: readonly Status[] = ["connected", "pending", "error", "disconnected"];

/** The connection that says most: a connected one rather than a pending one, and so on. */
export function best(connections: readonly Connection[]): Connection | undefined {
  const rank = (connection: Connection) => BEST_FIRST.indexOf(connection.status);
  return connections.reduce<Connection | undefined>(
    (found, one) => (found === undefined || rank(one) < rank(found) ? one : found),
    undefined,
  );
}

/** What a person would call a connection. */
export function nameOf(connection: Connection): string {
  return plain(connection.label) ?? accountOf(connection) ?? connection.connector_name;
}

/** Whose account it is, where the provider tells. */
export function accountOf(connection: Connection): string | null {
  return accountName(connection.account);
}

/** What a provider calls an account: its name or its id. */
export function accountName(account: Account | null | undefined): string | null {
  return plain(account?.name) ?? plain(account?.id);
}

/** The scopes that were asked for and not granted, while it is connected. */
export function missingScopes({ status, missing_scopes: missing }: Connection): readonly string[] {
  return status === "connected" ? (missing ?? []) : [];
}

/** Text of others without the characters that reverse the text around it; null if nothing visible is left. */
export function plain(text: string | null | undefined): string | null {
  const kept = text?.replace(/\p{Bidi_C}/gu, "") ?? "";
  // `DI`: characters without a glyph, such as a zero-width space or a Hangul filler.
  return /[^\s\p{DI}]/u.test(kept) ? kept : null;
}

/** Whether what works was granted in another browser than it was asked for in: perhaps by another person. */
export function isFromElsewhere(connection: Connection): boolean {
  return connection.status === "connected" && connection.attempt?.same_browser === false;
}

/**
 * An instance id for one more account of a connector: that of one that never came to be connected, if there is one; none
 * for the first, or where the first was disconnected.
 */
export function freeInstance(connections: readonly Connection[], connectorId: string): string {
  const own = connections.filter((connection) => isOf(connection, connectorId));
  const unfinished = own.find((connection) => connection.connected_at == null && connection.status !== "disconnected");
  if (unfinished) return unfinished.instance_id;
  const first = own.find((connection) => connection.instance_id === "");
  return !first || first.status === "disconnected" ? "" : randomId().slice(0, 12);
}
