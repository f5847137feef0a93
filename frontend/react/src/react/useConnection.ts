import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import type { Connection, DisconnectAnswer } from "../types.js";
import { worthRetrying, type ConnectionList } from "./cache.js";
import { usePatchbay } from "./context.js";

/** One connection, and what can be done with it. */
export interface UseConnection {
  connection: Connection | undefined;
  /** What the user calls it; null removes the name. */
  rename: (label: string | null) => Promise<Connection>;
  /** Asks Nango now how it is. */
  check: () => Promise<Connection>;
  /** After an `account_mismatch`: takes the account that it came back as. */
  acceptAccount: (accountId: string) => Promise<Connection>;
  disconnect: () => Promise<DisconnectAnswer>;
  /** What is under way. */
  busy: "rename" | "check" | "accept" | "disconnect" | null;
  isLoading: boolean;
  /** Why it could not be fetched. */
  error: Error | null;
  refetch: () => Promise<unknown>;
}

/** One connection by its id, kept up to date. */
export function useConnection(id: string): UseConnection {
  const { client, cache } = usePatchbay();
  const queries = useQueryClient();
  const query = useQuery({
    queryKey: cache.connection(id),
    queryFn: ({ signal }) => client.getConnection(id, { signal }),
    // What the list has is shown at once.
    initialData: () =>
      queries.getQueryData<ConnectionList>(cache.connections)?.connections.find((connection) => connection.id === id),
    initialDataUpdatedAt: () => queries.getQueryState(cache.connections)?.dataUpdatedAt,
    retry: worthRetrying,
    staleTime: 30_000,
  });
  const put = (connection: Connection) => cache.put(connection);
  const renaming = useMutation({ mutationFn: (label: string | null) => client.update(id, { label }), onSuccess: put });
  const checking = useMutation({ mutationFn: () => client.check(id), onSuccess: put });
  const accepting = useMutation({ mutationFn: (account: string) => client.acceptAccount(id, account), onSuccess: put });
  const ending = useMutation({
    mutationFn: async () => {
      const { connector_id } = query.data ?? (await client.getConnection(id));
      return client.disconnect(connector_id, { connectionId: id });
    },
    onSuccess: () => cache.refresh(id),
  });
  let busy: UseConnection["busy"] = null;
  if (renaming.isPending) busy = "rename";
  else if (checking.isPending) busy = "check";
  else if (accepting.isPending) busy = "accept";
  else if (ending.isPending) busy = "disconnect";
  return {
    connection: query.data,
    rename: renaming.mutateAsync,
    check: checking.mutateAsync,
    acceptAccount: accepting.mutateAsync,
    disconnect: ending.mutateAsync,
    busy,
    isLoading: query.isPending,
    error: query.error,
    refetch: query.refetch,
  };
}
