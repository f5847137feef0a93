import type { Connection, UseConnection } from "@patchbay/react";
import { useState } from "react";
import { announce } from "../announcer.js";
import { Refusal } from "../ui/parts.js";
import { nameOf } from "../words.js";

/** Removes a connection that is not connected from the list. No workflow ends by it, so there is nothing to confirm. */
export function Remove({ connection, held }: { connection: Connection; held: Pick<UseConnection, "remove" | "busy"> }) {
  const [trouble, setTrouble] = useState<Error | null>(null);
  const remove = async () => {
    if (held.busy !== null) return;
    setTrouble(null);
    try {
      await held.remove();
      announce(`${connection.connector_name}, ${nameOf(connection)}: removed.`);
    } catch (error) {
      setTrouble(error as Error);
    }
  };
  return (
    <>
      <button className="button compact" aria-disabled={held.busy !== null} onClick={() => void remove()}>
        Remove<span className="hidden"> {connection.connector_name}, {nameOf(connection)}</span>
      </button>
      {trouble && <Refusal error={trouble} />}
    </>
  );
}
