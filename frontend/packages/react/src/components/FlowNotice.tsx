import { useState, type ReactNode } from "react";
import { isFromElsewhere, plain, type Connection, type FlowState } from "@patchbay/client";
import { useConnectMessages } from "../react/context.js";
import { isOfSession } from "../react/cache.js";
import type { ConnectMessages } from "../react/messages.js";
import type { UseConnect } from "../react/useConnect.js";
import { useConnectionActions } from "../react/useConnectionActions.js";
import { AccountLine } from "./AccountLine.js";
import { Button } from "./Button.js";
import { ErrorNotice, errorText, Details } from "./ErrorNotice.js";

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
  const waiting = state.phase === "waiting" || state.phase === "starting" ? state : null;
  const blocked = waiting?.phase === "waiting" && waiting.window === "blocked" ? waiting.attempt.oauthUrl : null;
  const elsewhere = state.phase === "connected" && isFromElsewhere(state.connection) ? state.connection : null;
  // While it starts, a window that was blocked has nowhere to go yet.
  const lost = waiting && !["open", "blocked"].includes(waiting.window);
  return (
    <div data-patchbay="flow" data-phase={state.phase} data-window={waiting?.window} data-warning={elsewhere ? "" : undefined}>
      <p data-patchbay="flow-text" role="status">
        {flowText(state, name, messages)}
        {elsewhere && <AccountLine connection={elsewhere} />}
      </p>
      {state.phase === "refused" && <Details error={state.error} />}
      {state.phase === "failed" && state.detail && (
        <details data-patchbay="details">
          <summary>{messages.details}</summary>
          <bdi>{plain(state.detail)}</bdi>
        </details>
      )}
      {blocked && (
        <a data-patchbay="link" href={blocked} target="_blank" rel="noopener noreferrer" onClick={connect.followed}>
          {messages.openHere}
        </a>
      )}
      {lost && <Button onClick={connect.reopen}>{messages.reopen}</Button>}
      {waiting && (
        <Button kind="quiet" onClick={connect.dismiss}>
          {messages.dismiss}
        </Button>
      )}
      {elsewhere && <WhoWasIt connection={elsewhere} onSettled={connect.dismiss} />}
    </div>
  );
}

/** Keeps what was granted in another browser, or ends it. */
function WhoWasIt({ connection, onSettled }: { connection: Connection; onSettled: () => void }): ReactNode {
  const messages = useConnectMessages();
  const { disconnect, busy } = useConnectionActions(connection.id);
  const [error, setError] = useState<Error | null>(null);
  const end = () => {
    setError(null);
    disconnect().then(onSettled, (cause: unknown) => setError(cause instanceof Error ? cause : new Error(String(cause))));
  };
  return (
    <>
      <Button onClick={onSettled}>{messages.itWasMe}</Button>
      <Button kind="danger" off={busy !== null} onClick={end}>
        {messages.disconnect}
      </Button>
      {error && <ErrorNotice error={error} onRetry={end} />}
    </>
  );
}
