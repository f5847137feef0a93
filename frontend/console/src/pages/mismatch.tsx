import { AccountChoice, accountName, accountOf, type Connection, type UseConnect } from "@patchbay/react";
import { Account, Notice } from "../ui/parts.js";

/** A reconnect came back as another account: which one it is to be. */
export function Mismatch({ connection, connect }: { connection: Connection; connect: UseConnect }) {
  const before = accountOf(connection);
  return (
    <Notice
      tone="warn"
      title="You reconnected with another account"
      actions={
        <>
          <AccountChoice connection={connection} />
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
      <Account title="Now" name={accountName(connection.pending_account)} />
    </Notice>
  );
}
