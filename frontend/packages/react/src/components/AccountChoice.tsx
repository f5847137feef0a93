import { accountName, type Connection } from "@patchbay/client";
import { useState, type ReactNode } from "react";
import { useConnectMessages } from "../react/useConnectMessages.js";
import { useConnectionActions } from "../react/useConnectionActions.js";
import { Button } from "./Button.js";
import { ErrorNotice } from "./ErrorNotice.js";
import { Sentence } from "./Sentence.js";

/** Accepts the other account that a reconnect came back as. The connect button beside it reconnects the one from before. */
export function AccountChoice({ connection }: { connection: Connection }): ReactNode {
  const messages = useConnectMessages();
  const { acceptAccount, busy } = useConnectionActions(connection.id);
  const [error, setError] = useState<Error | null>(null);
  const found = connection.pending_account;
  if (!found) return null;
  const accept = () => {
    setError(null);
    acceptAccount(found.id).catch((cause: unknown) => setError(cause instanceof Error ? cause : new Error(String(cause))));
  };
  return (
    <>
      <Button off={busy !== null} onClick={accept}>
        <Sentence of={messages.useAccount} name={accountName(found) ?? "?"} />
      </Button>
      {error && <ErrorNotice error={error} onRetry={accept} />}
    </>
  );
}
