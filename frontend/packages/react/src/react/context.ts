import { createContext, useContext, useMemo, type ReactNode } from "react";
import type { Client, Flows } from "@patchbay/client";
import type { Cache } from "./cache.js";
import { buttonMessages, mergeMessages, type ButtonMessages } from "./buttonMessages.js";
import type { MessageOverrides } from "./messages.js";

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

/** The messages of a connect button before a click. */
export function useButtonMessages(): ButtonMessages {
  const { overrides } = usePatchbay();
  return useMemo(() => mergeMessages(buttonMessages, overrides), [overrides]);
}
