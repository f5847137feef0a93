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
