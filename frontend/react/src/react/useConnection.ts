import { useQuery, useQueryClient } from "@tanstack/react-query";
import type { Connection } from "../types.js";
import { pauseBeforeRetry, worthRetrying, type ConnectionList } from "./cache.js";
import { usePatchbay } from "./context.js";
import { useConnectionActions, type ConnectionActions } from "./useConnectionActions.js";

/** One connection, and what can be done with it. */
export interface UseConnection extends ConnectionActions {
  connection: Connection | undefined;
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
    retryDelay: pauseBeforeRetry,
    staleTime: 30_000,
  });
  return {
    ...useConnectionActions(id),
    connection: query.data,
    isLoading: query.isPending,
    error: query.error,
    refetch: query.refetch,
  };
}
