import { useState, type ReactNode } from "react";
import type { FlowState } from "../flow/state.js";
import { usePatchbay } from "../react/context.js";
import { isFromElsewhere, plain } from "../react/find.js";
import type { Messages } from "../react/messages.js";
import type { UseConnect } from "../react/useConnect.js";
import { useConnectionActions } from "../react/useConnectionActions.js";
import type { Connection } from "../types.js";
import { AccountLine } from "./ConnectionStatus.js";
import { ErrorNotice, errorText, Reference } from "./ErrorNotice.js";

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
  const elsewhere = state.phase === "connected" && isFromElsewhere(state.connection) ? state.connection : null;
  const lost = waiting && waiting.window !== "open" && !blocked;
  return (
    <div data-patchbay="flow" data-phase={state.phase} data-window={waiting?.window} data-warning={elsewhere ? "" : undefined}>
      <p data-patchbay="flow-text" role="status" aria-live="polite">
        {flowText(state, name, messages)}
        {state.phase === "failed" && state.detail && <bdi data-patchbay="flow-detail">{plain(state.detail)}</bdi>}
        {elsewhere && <AccountLine connection={elsewhere} />}
      </p>
      {state.phase === "refused" && <Reference error={state.error} />}
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
      {elsewhere && <WhoWasIt connection={elsewhere} onSettled={connect.dismiss} />}
    </div>
  );
}

/** Keeps what was granted in another browser, or ends it. */
function WhoWasIt({ connection, onSettled }: { connection: Connection; onSettled: () => void }): ReactNode {
  const { messages } = usePatchbay();
  const { disconnect, busy } = useConnectionActions(connection.id);
  const [error, setError] = useState<Error | null>(null);
  const end = () => {
    setError(null);
    disconnect().then(onSettled, (cause: unknown) => setError(cause instanceof Error ? cause : new Error(String(cause))));
  };
  return (
    <>
      <button type="button" data-patchbay="button" onClick={onSettled}>
        {messages.itWasMe}
      </button>
      <button
        type="button"
        data-patchbay="button"
        data-danger=""
        aria-disabled={busy !== null || undefined}
        onClick={() => {
          if (busy === null) end();
        }}
      >
        {messages.disconnect}
      </button>
      {error && <ErrorNotice error={error} onRetry={end} />}
    </>
  );
}
