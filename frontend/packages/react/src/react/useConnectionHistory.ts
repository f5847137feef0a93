import { useInfiniteQuery } from "@tanstack/react-query";
import type { ConnectionEvent } from "@patchbay/client";
import { flat, RECOVERING } from "./cache.js";
import { usePatchbay } from "./context.js";

/** What has happened to a connection. */
export interface UseConnectionHistory {
  /** The newest first. */
  events: ConnectionEvent[];
  hasMore: boolean;
  loadMore: () => Promise<unknown>;
  isLoading: boolean;
  isLoadingMore: boolean;
  error: Error | null;
  refetch: () => Promise<unknown>;
}

/** A connection's history, kept up to date. */
export function useConnectionHistory(id: string, { pageSize = 20 }: { pageSize?: number } = {}): UseConnectionHistory {
  const { client, cache } = usePatchbay();
  const query = useInfiniteQuery({
    queryKey: [...cache.history(id), pageSize],
    queryFn: ({ pageParam, signal }) =>
      client.history(id, { limit: pageSize, cursor: pageParam }, { signal }),
    initialPageParam: undefined as number | undefined,
    getNextPageParam: (last) => last.next_cursor ?? undefined,
    ...RECOVERING,
    staleTime: 30_000,
  });
  return {
    events: flat(query.data, (page) => page.events),
    hasMore: query.hasNextPage,
    loadMore: query.fetchNextPage,
    isLoading: query.isPending,
    isLoadingMore: query.isFetchingNextPage,
    error: query.error,
    refetch: query.refetch,
  };
}
