import { useEffect, useId, useRef, useState, type ReactNode } from "react";
import { useMessages } from "../react/useMessages.js";
import { Button } from "./Button.js";

/** Props of `RenameForm`. */
export interface RenameFormProps {
  /** What it is called now; empty if it has no name of its own. */
  label: string;
  busy: boolean;
  /** Takes the new name; null for none. */
  onSave: (label: string | null) => void;
  onCancel: () => void;
}

/** Gives a connection a name. Escape leaves it as it was. */
export function RenameForm({ label, busy, onSave, onCancel }: RenameFormProps): ReactNode {
  const messages = useMessages();
  const id = useId();
  const input = useRef<HTMLInputElement>(null);
  const [value, setValue] = useState(label);
  useEffect(() => {
    input.current?.focus();
    input.current?.select();
  }, []);
  return (
    <form
      data-patchbay="rename"
      onSubmit={(event) => {
        event.preventDefault();
        if (!busy) onSave(value.trim() || null);
      }}
      onKeyDown={(event) => {
        if (event.key === "Escape") onCancel();
      }}
    >
      <label htmlFor={id}>{messages.nameLabel}</label>
      <input
        ref={input}
        id={id}
        data-patchbay="input"
        maxLength={255}
        value={value}
        onChange={(event) => setValue(event.target.value)}
      />
      <Button type="submit" kind="primary" off={busy}>
        {messages.save}
      </Button>
      <Button onClick={onCancel}>{messages.cancel}</Button>
    </form>
  );
}
