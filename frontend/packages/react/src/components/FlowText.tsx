import { isFromElsewhere, type FlowState } from "@patchbay/client";
import type { ReactNode } from "react";
import { useConnectMessages } from "../react/useConnectMessages.js";
import { AccountLine } from "./AccountLine.js";
import { flowText } from "./flowMessage.js";

/** The message for a connect's state, with the account where that is of another browser. */
export function FlowText({ state, name }: { state: FlowState; name: string }): ReactNode {
  const messages = useConnectMessages();
  return (
    <>
      {flowText(state, name, messages)}
      {elsewhere(state) && <AccountLine connection={state.connection} />}
    </>
  );
}

/** Whether a connect ended with a grant of another browser. */
export function elsewhere(state: FlowState): state is Extract<FlowState, { phase: "connected" }> {
  return state.phase === "connected" && isFromElsewhere(state.connection);
}
