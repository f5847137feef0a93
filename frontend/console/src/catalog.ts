import { allPages, RECOVERING, usePatchbay, type Category, type Connector } from "@patchbay/react";
import { useQuery } from "@tanstack/react-query";

/** How many connectors are fetched at once: as many as the service allows. */
const PAGE = 200;

interface Catalog {
  connectors: Connector[];
  categories: Category[];
}

/** The whole catalog, so that a search answers with the key that is pressed. */
export function useCatalog() {
  const { client, cache } = usePatchbay();
  return useQuery({
    queryKey: cache.connectors("all"),
    queryFn: async ({ signal }): Promise<Catalog> => {
      const pages = await allPages((cursor) => client.listConnectors({ limit: PAGE, cursor }, { signal }));
      return { connectors: pages.flatMap((page) => page.connectors), categories: pages.at(-1)?.categories ?? [] };
    },
    ...RECOVERING,
    staleTime: 5 * 60_000,
  });
}

/** The slugs of the connectors that the service finds for a search, which knows synonyms; undefined until it has answered. */
export function useFound(search: string): Set<string> | undefined {
  const { client, cache } = usePatchbay();
  const text = search.trim();
  const { data } = useQuery({
    queryKey: cache.connectors("found", text),
    queryFn: async ({ signal }) => {
      const { connectors } = await client.listConnectors({ search: text, limit: PAGE }, { signal });
      return new Set(connectors.map(({ slug }) => slug));
    },
    enabled: text.length > 1,
    staleTime: 5 * 60_000,
  });
  return text.length > 1 ? data : undefined;
}
