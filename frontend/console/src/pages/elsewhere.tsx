import { useConnection, type ConnectFlow, type Connection } from "@patchbay/react";
import { Notice } from "../ui/parts.js";
import { Disconnect } from "./disconnect.js";

/** Whether what works was granted in another browser than it was asked for in: perhaps by another person. */
export function isFromElsewhere(connection: Connection): boolean {
  return connection.status === "connected" && connection.attempt?.same_browser === false;
}

/** Whose account a connection is that was granted in another browser, and what to do where it is not the user's. */
export function Elsewhere({ connection, flow }: { connection: Connection; flow: ConnectFlow }) {
  const held = useConnection(connection.id);
  const account = connection.account?.name ?? connection.account?.id;
  return (
    <Notice
      tone="warn"
      title="Granted in another browser"
      actions={
        <>
          <button className="button compact" onClick={() => flow.start()}>
            It was me: reconnect here
          </button>
          <Disconnect connection={connection} held={held} words="It was not me" />
        </>
      }
    >
      Access was granted in another browser than the one that asked for it
      {account ? `, as ${account}` : ", and the provider does not tell as whom"}. If it was not you, disconnect it: workflows would read
      and write another person’s account.
    </Notice>
  );
}
