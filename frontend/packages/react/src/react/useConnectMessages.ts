import { useMemo } from "react";
import { mergeMessages } from "./buttonMessages.js";
import { usePatchbay } from "./context.js";
import { connectMessages, type ConnectMessages } from "./messages.js";

/** The messages of a connect button and of what it says after a click. */
export function useConnectMessages(): ConnectMessages {
  const { overrides } = usePatchbay();
  return useMemo(() => mergeMessages(connectMessages, overrides), [overrides]);
}
