import { accountOf, useConnection, type Connection, type UseConnect } from "@patchbay/react";
import { Account, Notice } from "../ui/parts.js";
import { Disconnect } from "./disconnect.js";

/** Whose account a connection is that was granted in another browser, and what to do where it is not the user's. */
export function Elsewhere({ connection, connect }: { connection: Connection; connect: UseConnect }) {
  const held = useConnection(connection.id);
  const account = accountOf(connection);
  return (
    <Notice
      tone="warn"
      title="Granted in another browser"
      actions={
        <>
          <button className="button compact" onClick={connect.start}>
            It was me: reconnect here
          </button>
          <Disconnect connection={connection} held={held} words="It was not me" />
        </>
      }
    >
      Access was granted in another browser than the one that asked for it. If it was not you, disconnect it: workflows would
      read and write another person’s account.
      <Account name={account} />
    </Notice>
  );
}
