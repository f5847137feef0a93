import type { ReactNode } from "react";
import { isFromElsewhere, type FlowState } from "@patchbay/client";
import { useConnectMessages } from "../react/context.js";
import { isOfSession } from "../react/cache.js";
import type { ConnectMessages } from "../react/messages.js";
import type { UseConnect } from "../react/useConnect.js";
import { errorText } from "./errorText.js";
import { AccountLine, FlowActions } from "./lazy.js";

/** What there is to say of a connect, in a sentence or two; empty where the button says it all. */
export function flowText(state: FlowState, name: string, messages: ConnectMessages): string {
  switch (state.phase) {
    case "idle":
      return state.canceled ? messages.canceled : "";
    case "starting":
      return state.window === "closed" ? messages.waiting.closed : messages.connecting(name);
    case "waiting":
      return state.trouble ? troubleText(state.trouble, messages) : messages.waiting[state.window];
    case "connected":
      return isFromElsewhere(state.connection)
        ? `${messages.nowConnected(name)} ${messages.otherBrowser}`
        : messages.nowConnected(name);
    case "refused":
      return errorText(state.error, messages);
    default: {
      const told = [messages.failures[state.phase](name)];
      if (state.connection.status === "connected") told.push(messages.stillWorks);
      return told.join(" ");
    }
  }
}

/** Why the service cannot be asked, and that it is asked again, if it is. */
export function troubleText(error: Error, messages: ConnectMessages): string {
  const text = errorText(error, messages);
  return isOfSession(error) ? text : `${text} ${messages.tryingAgain}`;
}

/** Props of `FlowNotice`. */
export interface FlowNoticeProps {
  /** What `useConnect` has answered. */
  connect: UseConnect;
  /** What a person calls the connector. */
  name: string;
}

/** What there is to say of a connect, read out as it changes, and what the user can do meanwhile. */
export function FlowNotice({ connect, name }: FlowNoticeProps): ReactNode {
  const messages = useConnectMessages();
  const { state } = connect;
  return (
    <div
      data-patchbay="flow"
      data-phase={state.phase}
      data-window={"window" in state ? state.window : undefined}
      data-warning={elsewhere(state) ? "" : undefined}
    >
      <p data-patchbay="flow-text" role="status">
        {flowText(state, name, messages)}
        {elsewhere(state) && <AccountLine connection={state.connection} />}
      </p>
      {state.phase !== "idle" && <FlowActions connect={connect} />}
    </div>
  );
}

/** Whether a connect ended with a grant of another browser. */
export function elsewhere(state: FlowState): state is Extract<FlowState, { phase: "connected" }> {
  return state.phase === "connected" && isFromElsewhere(state.connection);
}
