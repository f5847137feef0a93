import type { ReactNode } from "react";
import type { Status } from "../types.js";

/** Told apart by their shapes, not by their colours alone. */
const SHAPES: Record<Status, ReactNode> = {
  connected: (
    <>
      <circle cx="8" cy="8" r="7" fill="currentColor" />
      <path d="m4.7 8.3 2.2 2.2 4.4-4.8" fill="none" stroke="var(--patchbay-surface, #fff)" strokeWidth="1.8" />
    </>
  ),
  disconnected: <circle cx="8" cy="8" r="6" fill="none" stroke="currentColor" strokeWidth="1.8" />,
  pending: (
    <>
      <circle cx="8" cy="8" r="6" fill="none" stroke="currentColor" strokeWidth="1.8" />
      <path d="M8 4.5V8l2.3 1.6" fill="none" stroke="currentColor" strokeWidth="1.6" />
    </>
  ),
  error: (
    <>
      <path d="M8 1.2 15.4 14.4H.6Z" fill="currentColor" />
      <path d="M8 6v4.2M8 11.4v1.6" stroke="var(--patchbay-surface, #fff)" strokeWidth="1.7" />
    </>
  ),
};

/** A status as a picture; the word beside it says the same. */
export function StatusIcon({ status }: { status: Status }): ReactNode {
  return (
    <svg data-patchbay="icon" viewBox="0 0 16 16" width="1em" height="1em" aria-hidden="true" focusable="false">
      {SHAPES[status]}
    </svg>
  );
}
