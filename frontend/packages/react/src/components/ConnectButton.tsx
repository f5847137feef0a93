import { useEffect, type ReactNode } from "react";
import type { ConnectDetails, Connection, FlowState, Parameter } from "@patchbay/client";
import { useButtonMessages } from "../react/context.js";
import type { ButtonMessages } from "../react/buttonMessages.js";
import { useConnect } from "../react/useConnect.js";
import { useConnectForm } from "../react/useConnectForm.js";
import { useConnector } from "../react/useConnector.js";
import { useConnectionList } from "../react/useConnections.js";
import { useKeptFocus } from "../react/useKeptFocus.js";
import { Button } from "./Button.js";
import { FlowNotice } from "./FlowNotice.js";
import { AccountChoice, buttonParts, ParameterForm } from "./lazy.js";

/** Props of `ConnectButton`. */
export interface ConnectButtonProps {
  /** The connector, by slug or id. */
  connectorId: string;
  /** What a person calls it. */
  connectorName: string;
  /** Which of several accounts; left out for the first. */
  instanceId?: string | undefined;
  /** A connection to authorize again, whether or not it works. */
  connectionId?: string | undefined;
  /** Called when the account is connected. */
  onConnected?: ((connection: Connection) => void) | undefined;
  /** Sent with the connect. */
  details?: ConnectDetails | undefined;
  /**
   * The connector's parameters: a form asks for those that are required and not in `details`. Fetched if left out. With an
   * empty list there is no form, and the window asks.
   */
  parameters?: readonly Parameter[] | undefined;
  disabled?: boolean | undefined;
  className?: string | undefined;
  /** Instead of the button's own words. */
  children?: ReactNode;
}

const NONE: readonly Parameter[] = [];

/** Connects an account, and says how it goes. */
export function ConnectButton(props: ConnectButtonProps): ReactNode {
  const { connectorId, connectorName, instanceId = "", connectionId, details, onConnected } = props;
  const { connections, getConnection, isUnknown } = useConnectionList();
  const messages = useButtonMessages();
  const target = connectionId === undefined ? { connectorId, instanceId } : { connectionId };
  const connect = useConnect(target, { details, onConnected });
  const { state, isBusy, dismiss } = connect;
  const isNew = connectionId === undefined;
  const known = isNew ? getConnection(connectorId, instanceId) : connections.find(({ id }) => id === connectionId);
  const status = known?.status ?? "disconnected";
  const again = connectionId !== undefined || (status === "error" && known?.connected_at != null);
  const fetched = useConnector(isNew && props.parameters === undefined ? connectorId : null);
  const parameters = props.parameters ?? fetched?.parameters ?? NONE;
  // A reconnect uses the values that were given before.
  const form = useConnectForm(connect, again ? NONE : parameters, details?.parameters);
  const kept = useKeptFocus<HTMLDivElement>();
  // They are there before the click.
  useEffect(() => void buttonParts.load(), []);
  // What was said of it is over when the connection is.
  const ended =
    state.phase === "connected" &&
    connections.some((one) => one.id === state.connection.id && one.status !== "connected");
  useEffect(() => {
    if (ended) dismiss();
  }, [ended, dismiss]);
  // A connection that works can be authorized again only by its id.
  const done = isNew && !isBusy && status === "connected";
  const label = done ? messages.connected(connectorName) : words(state, again, connectorName, messages);
  return (
    <div ref={kept} data-patchbay="connect" data-phase={state.phase} data-status={isUnknown ? "unknown" : status} className={props.className}>
      {!form.isOpen && (
        <Button
          // What works and may be authorized again is not what a user has come for.
          kind={!isNew && status === "connected" ? undefined : "primary"}
          off={props.disabled || isBusy || done}
          aria-busy={isBusy || undefined}
          onClick={form.start}
        >
          {isBusy && <span data-patchbay="spinner" aria-hidden="true" />}
          {done || isBusy ? label : (props.children ?? label)}
        </Button>
      )}
      {form.isOpen && <ParameterForm form={form} name={connectorName} />}
      {known?.status_reason === "account_mismatch" && <AccountChoice connection={known} />}
      <FlowNotice connect={form.isOpen ? { ...connect, state: { phase: "idle" } } : connect} name={connectorName} />
    </div>
  );
}

function words(state: FlowState, again: boolean, name: string, messages: ButtonMessages): string {
  switch (state.phase) {
    case "starting":
    case "waiting":
      return messages.connecting(name);
    default:
      return again ? messages.reconnect(name) : messages.connect(name);
  }
}
