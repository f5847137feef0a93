import { accountOf, isFromElsewhere, useConnect, useConnectForm, useConnectionActions, useConnector, type Connection, type Parameter } from "@patchbay/react";
import { targetOf } from "../target.js";
import { Link, paths } from "../router.js";
import { Logo } from "../ui/logo.js";
import { Detail, Notice, Pill } from "../ui/parts.js";
import { Moment } from "../ui/time.js";
import { detailOf, failedReconnect, isNew, isTold, lastUse, nameOf, standingOf } from "../words.js";
import { Elsewhere } from "./elsewhere.js";
import { FlowNotice } from "./flow-notice.js";
import { MissingScopes } from "./identity.js";
import { Mismatch } from "./mismatch.js";
import { ParametersDialog } from "./parameters.js";
import { Remove } from "./remove.js";

/** A list row of an account: its owner, its status, the reason, and the remedy. */
export function AccountRow({ connection, withConnector = false }: { connection: Connection; withConnector?: boolean }) {
  const connect = useConnect(targetOf(connection));
  const form = useConnectForm(connect, useParametersOf(connection));
  const { remove, busy } = useConnectionActions(connection.id);
  const { state } = connect;
  const standing = standingOf(connection);
  const name = nameOf(connection);
  const account = accountOf(connection);
  const reported = isTold(state);
  const detail = detailOf(connection);
  return (
    <li className="row">
      <div className="row-main">
        <div className="row-name">
          <Logo name={connection.connector_name} slug={connection.connector_slug} />
          <div>
            <Link href={paths.connection(connection.id)}>
              <bdi>{withConnector ? connection.connector_name : name}</bdi>
              {withConnector && <span className="hidden">, {name}</span>}
            </Link>
            <p className="quiet small">
              {withConnector && (
                <>
                  <bdi>{name}</bdi> ·{" "}
                </>
              )}
              {account !== null && account !== name && (
                <>
                  <bdi>{account}</bdi> ·{" "}
                </>
              )}
              {connection.same_account_as.length > 0 && "connected more than once · "}
              <Used connection={connection} />
            </p>
          </div>
        </div>
        <div className="row-side">
          <Pill tone={standing.tone}>{standing.word}</Pill>
          {!reported && standing.remedy && connection.status_reason !== "account_mismatch" && (
            <button className="button compact" onClick={form.start}>
              {standing.remedy}
              <span className="hidden"> {connection.connector_name}</span>
            </button>
          )}
          {!reported && isNew(connection) && <Remove connection={connection} held={{ remove, busy }} />}
          {standing.remedy === null && (
            <Link className="button compact" href={paths.connection(connection.id)} tabIndex={-1} aria-hidden="true">
              Manage
            </Link>
          )}
        </div>
      </div>
      <ParametersDialog form={form} name={connection.connector_name} />
      <FlowNotice connect={connect} form={form} name={connection.connector_name} />
      {!reported && connection.status_reason === "account_mismatch" && <Mismatch connection={connection} connect={connect} />}
      {!reported && connection.status_reason !== "account_mismatch" && standing.why && standing.tone !== "off" && (
        <p className="quiet small">
          {standing.why}
          {detail && <Detail text={detail} />}
        </p>
      )}
      {!reported && <MissingScopes connection={connection} start={form.start} />}
      {!reported && isFromElsewhere(connection) && <Elsewhere connection={connection} connect={connect} />}
      {!reported && failedReconnect(connection) && <Notice tone="warn">{failedReconnect(connection)}</Notice>}
    </li>
  );
}

const NONE: Parameter[] = [];

/** The parameters that the provider requires for a new connection. A reconnect reuses the stored values. */
export function useParametersOf(connection: Connection): Parameter[] {
  const connector = useConnector(isNew(connection) ? connection.connector_slug : null);
  return connector?.parameters ?? NONE;
}

function Used({ connection }: { connection: Connection }) {
  if (connection.status === "disconnected" && connection.disconnected_at) {
    return (
      <>
        disconnected <Moment at={connection.disconnected_at} />
      </>
    );
  }
  const used = lastUse(connection);
  if (used) {
    return (
      <>
        last used <Moment at={used} />
      </>
    );
  }
  if (connection.connected_at) {
    return (
      <>
        connected <Moment at={connection.connected_at} />, not used yet
      </>
    );
  }
  return (
    <>
      started <Moment at={connection.created_at} />
    </>
  );
}
