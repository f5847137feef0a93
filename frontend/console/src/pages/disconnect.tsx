import { defaultMessages, type Connection, type UseConnection } from "@patchbay/react";
import { useState } from "react";
import { Dialog, Refusal } from "../ui/parts.js";
import { nameOf } from "../words.js";

/** Ends a connection, once it is clear what that means. `words` are the button's, in a notice. */
export function Disconnect({ connection, held, words }: { connection: Connection; held: UseConnection; words?: string }) {
  const [asking, setAsking] = useState(false);
  const [trouble, setTrouble] = useState<Error | null>(null);
  const end = async () => {
    if (held.busy !== null) return;
    setTrouble(null);
    try {
      await held.disconnect();
      setAsking(false);
    } catch (error) {
      setTrouble(error as Error);
    }
  };
  return (
    <>
      <button className={words ? "button compact" : "button danger"} onClick={() => setAsking(true)}>
        {words ?? "Disconnect"}
      </button>
      {asking && (
        <Dialog title={
          <>
            Disconnect <bdi>{nameOf(connection)}</bdi>?
          </>
        } onClose={() => setAsking(false)}>
          <p>{defaultMessages.disconnectMeaning}</p>
          {trouble && <Refusal error={trouble} />}
          <div className="actions">
            <button className="button" autoFocus onClick={() => setAsking(false)}>
              {defaultMessages.cancel}
            </button>
            <button className="button primary danger" aria-disabled={held.busy !== null} onClick={() => void end()}>
              {held.busy === "disconnect" ? "Disconnecting…" : "Disconnect"}
            </button>
          </div>
        </Dialog>
      )}
    </>
  );
}
