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
