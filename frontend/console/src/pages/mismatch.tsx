import { useConnection, type Connection } from "@patchbay/react";
import type { ConnectFlow } from "@patchbay/react";
import { useState } from "react";
import { Notice, Refusal } from "../ui/parts.js";

/** A reconnect came back as another account: which one it is to be. */
export function Mismatch({ connection, flow }: { connection: Connection; flow: ConnectFlow }) {
  const { acceptAccount, busy } = useConnection(connection.id);
  const [trouble, setTrouble] = useState<Error | null>(null);
  const accept = (account: string) => {
    setTrouble(null);
    acceptAccount(account).catch(setTrouble);
  };
  const before = connection.account?.name ?? connection.account?.id ?? "the account from before";
  const found = connection.found_account;
  const other = found?.name ?? found?.id ?? "another account";
  return (
    <>
      <Notice
        tone="warn"
        title="Another account came back"
        actions={
          <>
            {found && (
              <button className="button compact" disabled={busy !== null} onClick={() => accept(found.id)}>
                Use {other}
              </button>
            )}
            <button className="button compact" onClick={() => flow.start()}>
              Reconnect {before}
            </button>
          </>
        }
      >
        It was {before}, and {other} has signed in now. Workflows get nothing until you say which it is.
      </Notice>
      {trouble && <Refusal error={trouble} />}
    </>
  );
}
