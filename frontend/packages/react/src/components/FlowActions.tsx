import { plain, type Connection } from "@patchbay/client";
import { useState, type ReactNode } from "react";
import { useConnectMessages } from "../react/useConnectMessages.js";
import type { UseConnect } from "../react/useConnect.js";
import { useConnectionActions } from "../react/useConnectionActions.js";
import { Button } from "./Button.js";
import { Details, ErrorNotice } from "./ErrorNotice.js";
import { elsewhere } from "./FlowText.js";

/** The user's actions while a connect is in progress, and details for an operator after a failure. */
export function FlowActions({ connect }: { connect: UseConnect }): ReactNode {
  const messages = useConnectMessages();
  const { state } = connect;
  const waiting = state.phase === "waiting" || state.phase === "starting" ? state : null;
  const blocked = waiting?.phase === "waiting" && waiting.window === "blocked" ? waiting.attempt.oauthUrl : null;
  // While the attempt starts, a blocked window has no address yet.
  const lost = waiting && !["open", "blocked"].includes(waiting.window);
  return (
    <>
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
      {elsewhere(state) && <WhoWasIt connection={state.connection} onSettled={connect.dismiss} />}
    </>
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
