import { isFromElsewhere, type FlowState } from "@patchbay/client";
import { isOfSession } from "../react/cache.js";
import type { ConnectMessages } from "../react/messages.js";
import { errorText } from "./errorText.js";

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
