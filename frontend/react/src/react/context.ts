import { createContext, useContext, type ReactNode } from "react";
import type { Client } from "../client/client.js";
import type { Cache } from "./cache.js";
import type { Messages } from "./messages.js";

/** A connector, as far as its picture goes. */
export interface LogoOf {
  slug: string;
  name: string;
}

/** What the provider hands down. */
export interface Patchbay {
  client: Client;
  cache: Cache;
  messages: Messages;
  logo: ((connector: LogoOf) => ReactNode) | undefined;
}

/** Set by `PatchbayProvider`. */
export const PatchbayContext = createContext<Patchbay | null>(null);

/** The client, the words and the cache of the provider around. */
export function usePatchbay(): Patchbay {
  const patchbay = useContext(PatchbayContext);
  if (!patchbay) throw new Error("Patchbay's hooks and components need a <PatchbayProvider> around them");
  return patchbay;
}

/** The provider's words, for components that show them. */
export function useMessages(): Messages {
  return usePatchbay().messages;
}
