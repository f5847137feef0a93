import { useMemo } from "react";
import { mergeMessages } from "./buttonMessages.js";
import { usePatchbay } from "./context.js";
import { defaultMessages, type Messages } from "./messages.js";

/** All messages, for components that show them. */
export function useMessages(): Messages {
  const { overrides } = usePatchbay();
  return useMemo(() => mergeMessages(defaultMessages, overrides), [overrides]);
}
