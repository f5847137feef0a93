import type { ReactNode } from "react";
import { isFromElsewhere, type FlowState } from "@patchbay/client";
import { useConnectMessages } from "../react/context.js";
import { isOfSession } from "../react/cache.js";
import type { ConnectMessages } from "../react/messages.js";
import type { UseConnect } from "../react/useConnect.js";
import { errorText } from "./errorText.js";
import { AccountLine, FlowActions } from "./lazy.js";

/** Returns the message for a connect's state, in a sentence or two; empty if the button already shows the state. */
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
      const sentences = [messages.failures[state.phase](name)];
      if (state.connection.status === "connected") sentences.push(messages.stillWorks);
      return sentences.join(" ");
    }
  }
}

/** Returns why the service is unreachable, and whether the client retries. */
export function troubleText(error: Error, messages: ConnectMessages): string {
  const text = errorText(error, messages);
  return isOfSession(error) ? text : `${text} ${messages.tryingAgain}`;
}

/** Props of `FlowNotice`. */
export interface FlowNoticeProps {
  /** The result of `useConnect`. */
  connect: UseConnect;
  /** The connector's display name. */
  name: string;
}

/** The message for a connect's state, announced when it changes, and the user's actions. */
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
