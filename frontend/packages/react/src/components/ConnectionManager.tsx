import { useState, type ReactNode } from "react";
import { useMessages } from "../react/useMessages.js";
import { isOf, type Connection } from "@patchbay/client";
import { useConnectionList } from "../react/useConnections.js";
import { useKeptFocus } from "../react/useKeptFocus.js";
import { ConnectionCard } from "./ConnectionCard.js";
import { ErrorNotice } from "./ErrorNotice.js";

/** Props of `ConnectionManager`. */
export interface ConnectionManagerProps {
  /** Only this connector's connections, by slug or id. */
  connectorId?: string | undefined;
  className?: string | undefined;
}

/** All of a user's accounts, with everything that can be done with them. Those that are disconnected stand apart. */
export function ConnectionManager({ connectorId, className }: ConnectionManagerProps): ReactNode {
  const messages = useMessages();
  const { connections, isLoading, error, refetch } = useConnectionList();
  const kept = useKeptFocus<HTMLElement>("summary, button");
  const [said, setSaid] = useState<ReactNode>("");
  const own = connectorId === undefined ? connections : connections.filter((one) => isOf(one, connectorId));
  const ended = own.filter((connection) => connection.status === "disconnected");
  const others = own.filter((connection) => connection.status !== "disconnected");
  const list = (some: Connection[]) => (
    <ul data-patchbay="list">
      {some.map((connection) => (
        <ConnectionCard key={connection.id} connection={connection} onDisconnected={setSaid} />
      ))}
    </ul>
  );
  return (
    <section ref={kept} data-patchbay="manager" aria-label={messages.connections} className={className}>
      {error && <ErrorNotice error={error} onRetry={() => void refetch()} />}
      {isLoading && <p aria-busy="true">{messages.loading}</p>}
      {!isLoading && !error && others.length === 0 && <p data-patchbay="empty">{messages.noConnections}</p>}
      <p data-patchbay="flow-text" role="status">
        {said}
      </p>
      {list(others)}
      {ended.length > 0 && (
        <details data-patchbay="ended">
          <summary>{messages.disconnectedOnes(ended.length)}</summary>
          {list(ended)}
        </details>
      )}
    </section>
  );
}
