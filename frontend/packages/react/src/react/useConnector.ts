import type { Connector } from "@patchbay/client";
import { useQuery } from "@tanstack/react-query";
import { RECOVERING } from "./cache.js";
import { usePatchbay } from "./context.js";

/** A connector of the catalog by slug or id, once it is known. Null fetches none. */
export function useConnector(connector: string | null): Connector | undefined {
  const { client, cache } = usePatchbay();
  const { data } = useQuery({
    queryKey: cache.connectors("one", connector),
    queryFn: ({ signal }) => client.getConnector(connector ?? "", { signal }),
    enabled: connector !== null,
    ...RECOVERING,
    staleTime: 5 * 60_000,
  });
  return data;
}
