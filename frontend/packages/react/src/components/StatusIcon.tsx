import type { ReactNode } from "react";
import type { Status } from "@patchbay/client";

const RING = <circle cx="8" cy="8" r="6.5" />;

/** The statuses differ in shape, not only in colour. */
const SHAPES: Record<Status, ReactNode> = {
  connected: (
    <>
      {RING}
      <path d="m5 8.3 2.1 2.1 4-4.5" />
    </>
  ),
  disconnected: RING,
  pending: (
    <>
      {RING}
      <path d="M8 4.5V8l2.3 1.6" />
    </>
  ),
  error: <path d="M8 1.5 15 14H1ZM8 6v4M8 11v1.6" />,
};

/** A status as a picture; the word beside it says the same. */
export function StatusIcon({ status }: { status: Status }): ReactNode {
  return (
    <svg data-patchbay="icon" viewBox="0 0 16 16" width="1em" height="1em" fill="none" stroke="currentColor" strokeWidth="1.7" aria-hidden="true">
      {SHAPES[status]}
    </svg>
  );
}
