import { createContext, useContext, useMemo, type ReactNode } from "react";
import type { Client, Flows } from "@patchbay/client";
import type { Cache } from "./cache.js";
import {
  connectMessages,
  defaultMessages,
  mergeMessages,
  type ConnectMessages,
  type MessageOverrides,
  type Messages,
} from "./messages.js";

/** A connector, as far as its picture goes. */
export interface LogoOf {
  slug: string;
  name: string;
}

/** What the provider hands down. */
export interface Patchbay {
  /** Patchbay's address, as the product gave it. */
  baseUrl: string;
  client: Client;
  cache: Cache;
  flows: Flows;
  /** The product's messages. */
  overrides: MessageOverrides | undefined;
  logo: ((connector: LogoOf) => ReactNode) | undefined;
}

/** Set by `PatchbayProvider`. */
export const PatchbayContext = createContext<Patchbay | null>(null);

/** The client, the cache, and the flows of the provider around. */
export function usePatchbay(): Patchbay {
  const patchbay = useContext(PatchbayContext);
  if (!patchbay) throw new Error("Patchbay needs a <PatchbayProvider> around it");
  return patchbay;
}

/** All messages, for components that show them. */
export function useMessages(): Messages {
  const { overrides } = usePatchbay();
  return useMemo(() => mergeMessages(defaultMessages, overrides), [overrides]);
}

/** The messages of a connect button: a page with nothing else does not load the others. */
export function useConnectMessages(): ConnectMessages {
  const { overrides } = usePatchbay();
  return useMemo(() => mergeMessages(connectMessages, overrides), [overrides]);
}
