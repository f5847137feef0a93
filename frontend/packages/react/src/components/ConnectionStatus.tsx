import type { ReactNode } from "react";
import { isOfSession } from "../react/cache.js";
import { useMessages } from "../react/useMessages.js";
import { isFromElsewhere, type Connection, type Status } from "@patchbay/client";
import type { Messages } from "../react/messages.js";
import { useConnectionList } from "../react/useConnections.js";
import { AccountLine } from "./lazy.js";
import { errorText } from "./errorText.js";
import { StatusIcon } from "./StatusIcon.js";

/** Props of `ConnectionStatus`: a connection, or a connector (by slug or id) whose connection is looked up. */
export interface ConnectionStatusProps {
  connection?: Connection | undefined;
  connectorId?: string | undefined;
  /** With `connectorId`: which of its accounts; the best of them if left out. */
  instanceId?: string | undefined;
  /** Whether to say why it is not connected, and what to do about it. */
  reason?: boolean | undefined;
  className?: string | undefined;
}

/** Where a connection stands: an icon, a word, and why. */
export function ConnectionStatus(props: ConnectionStatusProps): ReactNode {
  const { connection, connectorId, instanceId, reason = true, className } = props;
  if (connection) return <Shown connection={connection} reason={reason} className={className} />;
  if (connectorId === undefined) return null;
  return <LookedUp connectorId={connectorId} instanceId={instanceId} reason={reason} className={className} />;
}

interface LookedUpProps {
  connectorId: string;
  instanceId: string | undefined;
  reason: boolean;
  className: string | undefined;
}

function LookedUp({ connectorId, instanceId, reason, className }: LookedUpProps): ReactNode {
  const { getConnection, isLoading, isUnknown, error } = useConnectionList();
  const messages = useMessages();
  if (isUnknown) {
    return (
      <span data-patchbay="status" data-status="unknown" className={className}>
        {unknownText(error, messages)}
      </span>
    );
  }
  if (isLoading) {
    return (
      <span data-patchbay="status" data-status="loading" aria-busy="true" className={className}>
        {messages.loading}
      </span>
    );
  }
  return <Shown connection={getConnection(connectorId, instanceId)} reason={reason} className={className} />;
}

/** What to say where the connections could not be fetched: that they are asked for again, if they are. */
export function unknownText(error: Error | null, messages: Messages): string {
  return error && isOfSession(error) ? errorText(error, messages) : messages.statusUnknown;
}

interface ShownProps {
  connection: Connection | undefined;
  reason: boolean;
  className: string | undefined;
}

function Shown({ connection, reason, className }: ShownProps): ReactNode {
  const messages = useMessages();
  const status: Status = connection?.status ?? "disconnected";
  const why = connection?.status_reason;
  const failing = status === "connected" && connection?.failing_since;
  return (
    <span data-patchbay="status" data-status={status} data-reason={why ?? undefined} className={className}>
      <StatusIcon status={status} />
      <span data-patchbay="status-word">{messages.status[status]}</span>
      {reason && why && <span data-patchbay="status-reason">{messages.reasons[why]}</span>}
      {reason && why && messages.advice[why] && <span data-patchbay="status-advice">{messages.advice[why]}</span>}
      {reason && failing && <span data-patchbay="status-reason">{messages.failing}</span>}
      {reason && connection && isFromElsewhere(connection) && (
        <>
          <span data-patchbay="status-advice" data-warning="">
            {messages.otherBrowser}
          </span>
          <AccountLine connection={connection} />
        </>
      )}
    </span>
  );
}
