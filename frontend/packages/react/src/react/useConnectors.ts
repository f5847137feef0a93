import { keepPreviousData, useInfiniteQuery } from "@tanstack/react-query";
import type { Category, Connector } from "@patchbay/client";
import { flat, RECOVERING } from "./cache.js";
import { usePatchbay } from "./context.js";

/** Which connectors. */
export interface UseConnectorsOptions {
  /** Words to look for in name, slug and category. */
  search?: string | undefined;
  /** Only this category. */
  category?: string | undefined;
  /** How many at once: 1 to 200. */
  pageSize?: number | undefined;
}

/** The catalog, or the part of it that was asked for. */
export interface UseConnectors {
  /** Those that are fetched, by name. */
  connectors: Connector[];
  /** How many there are, on all pages. */
  totalCount: number;
  /** All categories of the whole catalog. */
  categories: Category[];
  hasMore: boolean;
  loadMore: () => Promise<unknown>;
  /** Whether nothing is known yet. */
  isLoading: boolean;
  isLoadingMore: boolean;
  /** Whether what is shown is still the answer to the last question. */
  isStale: boolean;
  error: Error | null;
  refetch: () => Promise<unknown>;
}

const NO_CATEGORIES: Category[] = [];

/** The catalog, page by page. */
export function useConnectors({ search = "", category, pageSize = 100 }: UseConnectorsOptions = {}): UseConnectors {
  const { client, cache } = usePatchbay();
  const query = useInfiniteQuery({
    queryKey: cache.connectors(search, category ?? null, pageSize),
    queryFn: ({ pageParam, signal }) =>
      client.listConnectors(
        { limit: pageSize, search: search || undefined, category: category || undefined, cursor: pageParam || undefined },
        { signal },
      ),
    initialPageParam: "",
    getNextPageParam: (last) => last.next_cursor ?? undefined,
    placeholderData: keepPreviousData,
    ...RECOVERING,
    staleTime: 5 * 60_000,
  });
  return {
    connectors: flat(query.data, (page) => page.connectors),
    totalCount: query.data?.pages[0]?.total_count ?? 0,
    categories: query.data?.pages[0]?.categories ?? NO_CATEGORIES,
    hasMore: query.hasNextPage,
    loadMore: query.fetchNextPage,
    isLoading: query.isPending,
    isLoadingMore: query.isFetchingNextPage,
    isStale: query.isPlaceholderData,
    error: query.error,
    refetch: query.refetch,
  };
}
