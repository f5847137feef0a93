import { accountOf, defaultMessages, useConnection, type Connection, type UseConnect } from "@patchbay/react";
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
      {defaultMessages.otherBrowser}
      <Account name={account} />
    </Notice>
  );
}
