import { useMutation, useQuery } from "@tanstack/react-query";
import { useCallback, useEffect, useMemo, useRef, useState } from "react";
import { best, connectOnce, isOf, type Connection, type DisconnectAnswer, type Status } from "@patchbay/client";
import { RECOVERING } from "./cache.js";
import { useButtonMessages, usePatchbay } from "./context.js";

/** The user's connections. */
export interface ConnectionListing {
  /** All of them, newest first. */
  connections: Connection[];
  totalCount: number;
  /** Whether this account is connected; without an instance, whether any of the connector's is. */
  isConnected: (connectorId: string, instanceId?: string) => boolean;
  /**
   * The status of this account; without an instance, the best status of the connector's accounts. `disconnected` if
   * there is none, and before the first response: see `isLoading` and `isUnknown`.
   */
  getConnectionStatus: (connectorId: string, instanceId?: string) => Status;
  /** The connection whose status `getConnectionStatus` returns. */
  getConnection: (connectorId: string, instanceId?: string) => Connection | undefined;
  /** `true` while there is neither data nor an error. */
  isLoading: boolean;
  /** `true` if the connections could not be fetched. An empty list then has no meaning. */
  isUnknown: boolean;
  /** Why the connections could not be fetched. It remains during a retry. */
  error: Error | null;
  /** Fetches them again. */
  refetch: () => Promise<unknown>;
}

/** An account of a connector, as one argument. */
export interface AccountToConnect {
  connectorId: string;
  /** Which of several accounts; left out for the first. */
  instanceId?: string | undefined;
}

/** A connection of a connector, as one argument. Which one may be left out when the connector has only one. */
export interface AccountToDisconnect extends AccountToConnect {
  connectionId?: string | undefined;
}

/** The user's connections, and what can be done with them. */
export interface UseConnections extends ConnectionListing {
  /**
   * Connects an account: opens the window, so it has to be called in the click itself. Rejects with a
   * `NotConnectedError` that says why not. `useConnect` has every step of it.
   */
  connect: (account: string | AccountToConnect, instanceId?: string) => Promise<Connection>;
  /** Disconnects an account. */
  disconnect: (account: string | AccountToDisconnect, connectionId?: string) => Promise<DisconnectAnswer>;
  /** `true` while a `connect` of this hook is in progress. */
  isConnecting: boolean;
  /** `true` while a `disconnect` of this hook is in progress. */
  isDisconnecting: boolean;
}

const NONE: Connection[] = [];

/** The user's connections, kept up to date. However many components use it, they share one request. */
export function useConnectionList(): ConnectionListing {
  const { cache } = usePatchbay();
  const query = useQuery({
    queryKey: cache.connections,
    queryFn: ({ signal }) => cache.fetchConnections(signal),
    structuralSharing: cache.merged,
    ...RECOVERING,
    // The event stream reports changes.
    staleTime: 30_000,
  });
  const isUnknown = query.data === undefined && query.errorUpdateCount > 0;
  const all = query.data?.connections ?? NONE;
  const connections = useMemo(() => all.filter((connection) => connection.status_reason !== "removed"), [all]);
  const getConnection = useCallback(
    (connectorId: string, instanceId?: string) =>
      best(connections.filter((connection) => isOf(connection, connectorId, instanceId))),
    [connections],
  );
  const getConnectionStatus = useCallback(
    (connectorId: string, instanceId?: string) => getConnection(connectorId, instanceId)?.status ?? "disconnected",
    [getConnection],
  );
  const isConnected = useCallback(
    (connectorId: string, instanceId?: string) => getConnectionStatus(connectorId, instanceId) === "connected",
    [getConnectionStatus],
  );

  return {
    connections,
    totalCount: (query.data?.totalCount ?? 0) - (all.length - connections.length),
    isConnected,
    getConnectionStatus,
    getConnection,
    isLoading: query.isPending,
    isUnknown,
    error: query.error ?? (isUnknown ? cache.failure : null),
    refetch: query.refetch,
  };
}

/** The user's connections, kept up to date, with ways to connect and disconnect. */
export function useConnections(): UseConnections {
  const { client, cache, flows } = usePatchbay();
  const messages = useButtonMessages();
  const mounted = useRef<AbortController | null>(null);
  useEffect(() => {
    const here = new AbortController();
    mounted.current = here;
    return () => here.abort();
  }, []);
  const [connecting, setConnecting] = useState(0);
  const connect = useCallback(
    async (account: string | AccountToConnect, instanceId?: string) => {
      const target = typeof account === "string" ? { connectorId: account, instanceId } : account;
      setConnecting((count) => count + 1);
      try {
        const words = { title: messages.windowTitle, text: messages.windowText };
        return await connectOnce(flows.of(target), target, { words }, mounted.current?.signal);
      } finally {
        setConnecting((count) => count - 1);
      }
    },
    [flows, messages],
  );
  const { mutateAsync, isPending } = useMutation({
    mutationFn: ({ connectorId, ...which }: AccountToDisconnect) => client.disconnect(connectorId, which),
    onSuccess: (answer) => cache.refresh(answer.connection_id),
  });
  const disconnect = useCallback(
    (account: string | AccountToDisconnect, connectionId?: string) =>
      mutateAsync(typeof account === "string" ? { connectorId: account, connectionId } : account),
    [mutateAsync],
  );
  return {
    ...useConnectionList(),
    connect,
    disconnect,
    isConnecting: connecting > 0,
    isDisconnecting: isPending,
  };
}
