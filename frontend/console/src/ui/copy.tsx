import { useState } from "react";
import { announce } from "../announcer.js";

/** An id, with a button that copies it. */
export function Copyable({ text, what }: { text: string; what: string }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setCopied(true);
      announce(`${what} copied.`);
    } catch {
      announce("The browser did not allow copying.");
    }
  };
  return (
    <span className="copyable">
      <span className="mono">{text}</span>
      <button type="button" className="button bare compact" onClick={() => void copy()} onBlur={() => setCopied(false)}>
        {copied ? "Copied" : "Copy"}
        <span className="hidden"> the {what.toLowerCase()}</span>
      </button>
    </span>
  );
}
