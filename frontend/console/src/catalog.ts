import { RECOVERING, usePatchbay, type Category, type Connector } from "@patchbay/react";
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
      const connectors: Connector[] = [];
      for (let cursor: string | undefined; ; ) {
        const page = await client.listConnectors({ limit: PAGE, cursor }, { signal });
        connectors.push(...page.connectors);
        cursor = page.next_cursor ?? undefined;
        if (!cursor) return { connectors, categories: page.categories };
      }
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
