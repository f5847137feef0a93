import { useId, useState, type ReactNode } from "react";
import { useMessages } from "../react/useMessages.js";
import { accountOf, freeInstance, isOf, missingScopes, nameOf, type Connection } from "@patchbay/client";
import type { Messages } from "../react/messages.js";
import { useConnectionList } from "../react/useConnections.js";
import { ConnectButton } from "./ConnectButton.js";
import { ConnectionStatus, unknownText } from "./ConnectionStatus.js";
import { ConnectorLogo } from "./ConnectorLogo.js";
import { ErrorNotice } from "./ErrorNotice.js";
import { MissingScopes } from "./MissingScopes.js";
import { Sentence } from "./Sentence.js";

/** Props of `ConnectionPicker`. */
export interface ConnectionPickerProps {
  /** The connector, by slug or id. */
  connectorId: string;
  /** The connector's display name. */
  connectorName: string;
  /** The `connection_id` that is chosen; null while none is. */
  value: string | null;
  /** Called with the chosen connection, also when a new account is connected. */
  onChange: (connectionId: string | null, connection: Connection | null) => void;
  className?: string | undefined;
}

/** Chooses one of the user's accounts of a connector, or connects one: for a step of a workflow. */
export function ConnectionPicker(props: ConnectionPickerProps): ReactNode {
  const { connectorId, connectorName, value, onChange, className } = props;
  const messages = useMessages();
  const id = useId();
  const { connections, isLoading, isUnknown, error, refetch } = useConnectionList();
  const own = connections.filter((connection) => isOf(connection, connectorId) && offered(connection, value));
  const chosen = own.find((connection) => connection.id === value);
  const names = distinctNames(own, messages);
  // The choice remains while the connection is unknown.
  const kept = isUnknown ? value : null;
  const choose = (connection: Connection | null) => onChange(connection?.id ?? null, connection);
  return (
    <div data-patchbay="picker" className={className}>
      <label htmlFor={id}>
        <ConnectorLogo connector={{ slug: connectorId, name: connectorName }} />
        {messages.pick(connectorName)}
      </label>
      <select
        id={id}
        data-patchbay="input"
        value={chosen?.id ?? kept ?? ""}
        aria-busy={isLoading || undefined}
        onChange={(event) => choose(own.find((connection) => connection.id === event.target.value) ?? null)}
      >
        <option value="">{isLoading && !isUnknown ? messages.loading : messages.pickNone}</option>
        {kept !== null && <option value={kept}>{unknownText(error, messages)}</option>}
        {own.map((connection) => (
          <option key={connection.id} value={connection.id}>
            {connection.status === "connected"
              ? names.get(connection.id)
              : messages.pickNeedsAttention(names.get(connection.id) ?? "", messages.status[connection.status])}
          </option>
        ))}
      </select>
      {error && <ErrorNotice error={error} onRetry={() => void refetch()} />}
      {chosen && chosen.status !== "connected" && (
        <>
          <ConnectionStatus connection={chosen} />
          <ConnectButton
            connectorId={connectorId}
            connectorName={connectorName}
            instanceId={chosen.instance_id}
            connectionId={chosen.status === "disconnected" ? undefined : chosen.id}
          />
        </>
      )}
      {chosen && missingScopes(chosen).length > 0 && (
        <>
          <MissingScopes connection={chosen} />
          <ConnectButton connectorId={connectorId} connectorName={connectorName} connectionId={chosen.id}>
            {messages.askForScopes}
          </ConnectButton>
        </>
      )}
      {!isLoading && !isUnknown && <OneMore {...props} connections={connections} any={own.length > 0} onConnected={choose} />}
    </div>
  );
}

interface OneMoreProps extends ConnectionPickerProps {
  connections: Connection[];
  any: boolean;
  onConnected: (connection: Connection) => void;
}

function OneMore({ connectorId, connectorName, connections, any, onConnected }: OneMoreProps): ReactNode {
  const messages = useMessages();
  // Stays the same until it is used, so that a connect in progress keeps its target.
  const [instanceId, setInstanceId] = useState(() => freeInstance(connections, connectorId));
  const [connected, setConnected] = useState<string | null>(null);
  const used = connections.some((one) => isOf(one, connectorId, instanceId) && one.status === "connected");
  if (used) setInstanceId(freeInstance(connections, connectorId));
  return (
    <>
      <ConnectButton
        key={instanceId}
        connectorId={connectorId}
        connectorName={connectorName}
        instanceId={instanceId}
        onConnected={(connection) => {
          setConnected(nameOf(connection));
          onConnected(connection);
        }}
      >
        {any ? messages.addAccount : messages.connect(connectorName)}
      </ConnectButton>
      <p data-patchbay="flow-text" role="status">
        {connected !== null && <Sentence of={messages.nowConnected} name={connected} />}
      </p>
    </>
  );
}

/** Names that tell the connections apart: by label, account and, where both are the same, the time of the connect. */
function distinctNames(connections: Connection[], messages: Messages): Map<string, string> {
  const full = (connection: Connection) => {
    const [name, account] = [nameOf(connection), accountOf(connection)];
    return account && account !== name ? `${name} (${account})` : name;
  };
  const isShared = (connection: Connection) => connections.filter((other) => full(other) === full(connection)).length > 1;
  return new Map(
    connections.map((connection) => [
      connection.id,
      isShared(connection) && connection.connected_at
        ? messages.pickConnectedOn(full(connection), messages.time(new Date(connection.connected_at)))
        : full(connection),
    ]),
  );
}

/** What was chosen stays in sight whatever has become of it; what never worked is not offered. */
function offered(connection: Connection, value: string | null): boolean {
  if (connection.id === value) return true;
  return connection.status === "connected" || (connection.status === "error" && connection.connected_at != null);
}
