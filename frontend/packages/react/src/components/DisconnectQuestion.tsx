import { useEffect, useId, useRef, type ReactNode } from "react";
import { useMessages } from "../react/useMessages.js";
import { Button } from "./Button.js";
import { Sentence } from "./Sentence.js";

/** Props of `DisconnectQuestion`. */
export interface DisconnectQuestionProps {
  /** What a person calls the connection. */
  name: string;
  busy: boolean;
  onConfirm: () => void;
  onCancel: () => void;
}

/** Says what a disconnect means, and asks. The keyboard's focus begins on the way out; Escape takes it. */
export function DisconnectQuestion({ name, busy, onConfirm, onCancel }: DisconnectQuestionProps): ReactNode {
  const messages = useMessages();
  const id = useId();
  const wayOut = useRef<HTMLButtonElement>(null);
  useEffect(() => wayOut.current?.focus(), []);
  return (
    <div
      data-patchbay="question"
      role="group"
      aria-labelledby={`${id}-question`}
      aria-describedby={`${id}-meaning`}
      onKeyDown={(event) => {
        if (event.key === "Escape") onCancel();
      }}
    >
      <strong id={`${id}-question`}>
        <Sentence of={messages.disconnectQuestion} name={name} />
      </strong>
      <p id={`${id}-meaning`}>{messages.disconnectMeaning}</p>
      <Button kind="danger" off={busy} onClick={onConfirm}>
        {messages.disconnect}
      </Button>
      <Button buttonRef={wayOut} onClick={onCancel}>
        {messages.cancel}
      </Button>
    </div>
  );
}
