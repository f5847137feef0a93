import { useQuery } from "@tanstack/react-query";
import type { Connection } from "@patchbay/client";
import { RECOVERING } from "./cache.js";
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
  const { cache } = usePatchbay();
  const query = useQuery({
    queryKey: cache.connection(id),
    queryFn: ({ signal }) => cache.fetchConnection(id, signal),
    structuralSharing: cache.newest,
    // What the list has is shown at once.
    initialData: () => cache.known(id),
    ...RECOVERING,
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
