import type { ReactNode } from "react";
import type { FlowState } from "../flow/state.js";
import { usePatchbay } from "../react/context.js";
import type { Messages } from "../react/messages.js";
import type { UseConnect } from "../react/useConnect.js";
import { errorText } from "./ErrorNotice.js";

/** What there is to say of a connect, in a sentence or two; empty where the button says it all. */
export function flowText(state: FlowState, name: string, messages: Messages): string {
  switch (state.phase) {
    case "idle":
      return "";
    case "starting":
      return messages.connecting(name);
    case "waiting":
      return state.trouble ? messages.waitingTrouble : messages.waiting[state.window];
    case "connected":
      return messages.nowConnected(name);
    case "refused":
      return errorText(state.error, messages);
    default: {
      const told = [messages.failures[state.phase](name)];
      if (state.detail && state.phase === "failed") told.push(state.detail);
      if (state.connection.status === "connected") told.push(messages.stillWorks);
      return told.join(" ");
    }
  }
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
  const { messages } = usePatchbay();
  const { state } = connect;
  const waiting = state.phase === "waiting" ? state : null;
  const blocked = waiting?.window === "blocked" ? waiting.attempt.oauthUrl : null;
  const lost = waiting && waiting.window !== "open" && !blocked;
  return (
    <div data-patchbay="flow" data-phase={state.phase} data-window={waiting?.window}>
      <p data-patchbay="flow-text" role="status" aria-live="polite">
        {flowText(state, name, messages)}
      </p>
      {blocked && (
        <a data-patchbay="link" href={blocked} target="_blank" rel="noopener noreferrer" onClick={connect.followed}>
          {messages.openHere}
        </a>
      )}
      {lost && (
        <button type="button" data-patchbay="button" onClick={connect.reopen}>
          {messages.reopen}
        </button>
      )}
      {waiting && (
        <button type="button" data-patchbay="button" data-quiet="" onClick={connect.dismiss}>
          {messages.dismiss}
        </button>
      )}
    </div>
  );
}
