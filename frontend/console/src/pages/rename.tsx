import { accountOf, type Connection, type UseConnection } from "@patchbay/react";
import { useId, useState, type FormEvent } from "react";
import { announce } from "../announcer.js";
import { Why } from "../ui/parts.js";

/** What the user calls an account. */
export function Rename({ connection, held }: { connection: Connection; held: UseConnection }) {
  const known = connection.label ?? "";
  const [label, setLabel] = useState(known);
  const [before, setBefore] = useState(known);
  // Renamed elsewhere: what is not changed here follows.
  if (before !== known) {
    setBefore(known);
    if (label === before) setLabel(known);
  }
  const [trouble, setTrouble] = useState<Error | null>(null);
  const id = useId();
  const wanted = label.trim() || null;
  const changed = wanted !== (connection.label ?? null);
  const save = async (event: FormEvent) => {
    event.preventDefault();
    if (!changed || held.busy !== null) return;
    setTrouble(null);
    try {
      await held.rename(wanted);
      announce(wanted ? `Saved: ${wanted}` : "The name was removed.");
    } catch (error) {
      setTrouble(error as Error);
    }
  };
  return (
    <form onSubmit={(event) => void save(event)}>
      <div className="rename">
        <div className="field">
          <label htmlFor={id}>What you call it</label>
          <input
            id={id}
            className="input"
            maxLength={255}
            autoComplete="off"
            placeholder={accountOf(connection) ?? "Work, private, …"}
            value={label}
            aria-invalid={trouble !== null}
            aria-describedby={trouble ? `${id}-trouble` : undefined}
            onChange={(event) => setLabel(event.target.value)}
          />
        </div>
        <button className="button" aria-disabled={!changed || held.busy !== null}>
          {held.busy === "rename" ? "Saving…" : "Save"}
        </button>
      </div>
      {trouble && (
        <p id={`${id}-trouble`} role="alert">
          <Why error={trouble} />
        </p>
      )}
    </form>
  );
}
