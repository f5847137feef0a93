import { QueryClientContext, type QueryClient } from "@tanstack/react-query";
import { useContext, useEffect, useMemo, useReducer, useRef, type ReactNode } from "react";
import { createClient, Flows, type ClientOptions } from "@patchbay/client";
import { Cache } from "./cache.js";
import { PatchbayContext, type LogoOf, type Patchbay } from "./context.js";
import type { MessageOverrides } from "./messages.js";

/** Props of `PatchbayProvider`. */
export interface PatchbayProviderProps extends ClientOptions {
  /**
   * Names the signed-in user, in any way that tells users apart. When it changes, everything that was shown to the
   * previous user is dropped; so it is when `getToken` returns a token with another subject. Without it, the data is
   * shared with no other provider.
   */
  user?: string | undefined;
  /** Words that differ from the English ones. */
  messages?: MessageOverrides | undefined;
  /** Draws a connector's logo; Patchbay's is shown where it returns null, and if it is left out. */
  logo?: ((connector: LogoOf) => ReactNode) | undefined;
  children?: ReactNode;
}

/** Counts the caches that no other provider may share, because the product does not name their users. */
let unnamed = 0;

/**
 * Gives Patchbay to everything inside it: one client and one event stream, which keeps react-query's cache true.
 * It has to be inside a `QueryClientProvider`.
 */
export function PatchbayProvider(props: PatchbayProviderProps): ReactNode {
  const { baseUrl, credentials, user, messages, logo, children } = props;
  const queries = useContext(QueryClientContext);
  if (!queries) throw new Error("PatchbayProvider needs a <QueryClientProvider> around it");
  const { getToken, fetch: ownFetch } = props;
  const [users, anotherUser] = useReducer((count: number) => count + 1, 0);
  const { client, cache, flows, options } = useMemo(() => {
    // A new user's client never asks for a token in the old one's way: it begins with what came with that user.
    const options = { getToken, fetch: ownFetch };
    const client = createClient({
      baseUrl,
      credentials,
      getToken: (wanted) => options.getToken(wanted),
      fetch: (input, init) => (options.fetch ?? fetch)(input, init),
    });
    const cache = new Cache(client, queries, `${baseUrl} ${user && !users ? 0 : ++unnamed} ${user}`);
    const flows = new Flows(client, cache);
    cache.onNew = () => flows.notify();
    return { client, cache, flows, options };
    // A getToken written in place is another function each time, which is no reason for another client.
  }, [baseUrl, credentials, user, queries, users]);
  useEffect(() => {
    options.getToken = getToken;
    options.fetch = ownFetch;
  }, [options, getToken, ownFetch]);
  useEffect(() => {
    const ends = [
      client.events((notice) => cache.take(notice)),
      client.session.subscribe(() => client.session.userChanged && anotherUser()),
    ];
    flows.resume();
    return () => {
      flows.dispose();
      for (const end of ends) end();
    };
  }, [client, cache, flows]);
  useForgetting(cache, queries);
  const value = useMemo<Patchbay>(
    () => ({ baseUrl, client, cache, flows, overrides: messages, logo }),
    [baseUrl, client, cache, flows, messages, logo],
  );
  return <PatchbayContext.Provider value={value}>{children}</PatchbayContext.Provider>;
}

/** Forgets the user before, once another is there. */
function useForgetting(cache: Cache, queries: QueryClient): void {
  const before = useRef({ cache, queries });
  useEffect(() => {
    if (before.current.cache !== cache && before.current.queries === queries) before.current.cache.clear();
    before.current = { cache, queries };
  }, [cache, queries]);
}
