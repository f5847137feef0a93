import { useConnections } from "@patchbay/react";
import { useEffect, useRef, useState } from "react";
import { standingOf } from "./words.js";

let listener: (text: string) => void = () => {};

/** Has a screen reader say what has happened, where nothing on the page says it. */
export function announce(text: string): void {
  listener(text);
}

/** Says aloud, to who does not see the page, what became of a connection. */
export function Announcer() {
  const { connections } = useConnections();
  const before = useRef<Map<string, string> | null>(null);
  const [said, setSaid] = useState("");
  useEffect(() => {
    listener = setSaid;
    return () => {
      listener = () => {};
    };
  }, []);
  useEffect(() => {
    const now = new Map(connections.map((connection) => [connection.id, standingOf(connection).word]));
    const old = before.current;
    before.current = now;
    if (!old) return;
    const changed = connections.filter((connection) => old.get(connection.id) !== now.get(connection.id));
    if (changed.length === 0) return;
    setSaid(changed.map((connection) => `${connection.connector_name}: ${now.get(connection.id)}`).join(". "));
  }, [connections]);
  return (
    <div className="hidden" role="status">
      {said}
    </div>
  );
}
