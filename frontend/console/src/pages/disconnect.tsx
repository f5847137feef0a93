import { DisconnectQuestion, type Connection, type UseConnection } from "@patchbay/react";
import { useState } from "react";
import { Dialog, Refusal } from "../ui/parts.js";
import { nameOf } from "../words.js";

/** Ends a connection, once it is clear what that means. `words` are the button's, in a notice. */
export function Disconnect({ connection, held, words }: { connection: Connection; held: UseConnection; words?: string }) {
  const [asking, setAsking] = useState(false);
  const [trouble, setTrouble] = useState<Error | null>(null);
  const name = nameOf(connection);
  const close = () => setAsking(false);
  const end = () => {
    setTrouble(null);
    held.disconnect().then(close, setTrouble);
  };
  return (
    <>
      <button className={words ? "button compact" : "button danger"} onClick={() => setAsking(true)}>
        {words ?? "Disconnect"}
      </button>
      {asking && (
        <Dialog label={`Disconnect ${name}?`} onClose={close}>
          {trouble && <Refusal error={trouble} />}
          <DisconnectQuestion name={name} busy={held.busy !== null} onConfirm={end} onCancel={close} />
        </Dialog>
      )}
    </>
  );
}
