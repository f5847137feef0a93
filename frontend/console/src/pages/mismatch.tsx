import { accountName, accountOf, useConnection, type Connection, type UseConnect } from "@patchbay/react";
import { useState } from "react";
import { Account, Notice, Refusal } from "../ui/parts.js";

/** A reconnect came back as another account: which one it is to be. */
export function Mismatch({ connection, connect }: { connection: Connection; connect: UseConnect }) {
  const { acceptAccount, busy } = useConnection(connection.id);
  const [trouble, setTrouble] = useState<Error | null>(null);
  const accept = (account: string) => {
    if (busy !== null) return;
    setTrouble(null);
    acceptAccount(account).catch(setTrouble);
  };
  const before = accountOf(connection);
  const found = connection.pending_account;
  const other = accountName(found);
  return (
    <>
      <Notice
        tone="warn"
        title="You reconnected with another account"
        actions={
          <>
            {found && (
              <button className="button compact" aria-disabled={busy !== null} onClick={() => accept(found.id)}>
                <span>
                  Use <bdi>{other ?? "the other account"}</bdi>
                </span>
              </button>
            )}
            <button className="button compact" onClick={connect.start}>
              <span>
                Reconnect <bdi>{before ?? "the account from before"}</bdi>
              </span>
            </button>
          </>
        }
      >
        Workflows cannot use this connection until you choose one of the accounts.
        <Account title="Before" name={before} />
        <Account title="Now" name={other} />
      </Notice>
      {trouble && <Refusal error={trouble} />}
    </>
  );
}
