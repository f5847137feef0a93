import { defaultMessages, isFromElsewhere, useConnect, useConnectForm, useConnector, useConnection, useConnections, type Connection, type UseConnection } from "@patchbay/react";
import { useContext, useState, type ReactNode } from "react";
import { targetOf } from "../target.js";
import { Link, paths } from "../router.js";
import { ControlsContext } from "../sandbox/controls.js";
import { Ageing } from "../sandbox/ageing.js";
import { useTitle } from "../ui/hooks.js";
import { Logo } from "../ui/logo.js";
import { Bones, Detail, Empty, isNotThere, Notice, Pill, Trouble, Why } from "../ui/parts.js";
import { Moment } from "../ui/time.js";
import { detailOf, failedReconnect, isNew, isTold, lastUse, nameOf, standingOf } from "../words.js";
import { Copyable } from "../ui/copy.js";
import { useParametersOf } from "./account-row.js";
import { Disconnect } from "./disconnect.js";
import { Elsewhere } from "./elsewhere.js";
import { FlowNotice } from "./flow-notice.js";
import { History } from "./history.js";
import { Identity, MissingScopes } from "./identity.js";
import { Mismatch } from "./mismatch.js";
import { ParametersDialog } from "./parameters.js";
import { Remove } from "./remove.js";
import { Rename } from "./rename.js";

/** One account: how it stands, what can be done, and what has happened. */
export function ConnectionPage({ id }: { id: string }) {
  const held = useConnection(id);
  const { connection, isLoading, error, refetch } = held;
  useTitle(connection ? `${nameOf(connection)} · ${connection.connector_name}` : "Connection");
  return (
    <div className="page slim">
      <nav className="crumbs" aria-label="Where this is">
        <Link href={paths.connections}>Connections</Link>
        {connection && (
          <>
            {" / "}
            <Link href={paths.connector(connection.connector_slug)}>{connection.connector_name}</Link>
          </>
        )}
      </nav>
      {isLoading && <Bones isPage rows={3} label="The connection is loading" />}
      {error && !connection && (isNotThere(error) ? <NotThere /> : <Trouble isPage what="This connection cannot be shown" error={error} retry={() => void refetch()} />)}
      {connection && <Details connection={connection} held={held} />}
    </div>
  );
}

function NotThere() {
  return (
    <Empty
      title="There is no such connection"
      isPage
      action={
        <Link className="button" href={paths.connections}>
          To your connections
        </Link>
      }
    >
      It may belong to another user.
    </Empty>
  );
}

function Details({ connection, held }: { connection: Connection; held: UseConnection }) {
  const controls = useContext(ControlsContext);
  const connect = useConnect(targetOf(connection));
  const form = useConnectForm(connect, useParametersOf(connection));
  const { state } = connect;
  const standing = standingOf(connection);
  const reported = isTold(state);
  const connected = connection.status === "connected";
  const mismatch = connection.status_reason === "account_mismatch";
  const connector = useConnector(controls ? connection.connector_slug : null);
  const isOAuth = connector?.auth_mode?.startsWith("OAUTH") ?? false;
  const isRemoved = connection.status_reason === "removed";
  const [checked, setChecked] = useState<ReactNode>(null);
  const check = async () => {
    if (held.busy !== null) return;
    setChecked(null);
    try {
      const now = await held.check();
      if (now.status === "connected") setChecked(now.failing_since ? defaultMessages.failing : defaultMessages.checked);
    } catch (error) {
      setChecked(<Why error={error as Error} />);
    }
  };
  return (
    <>
      <div className="page-head">
        <Logo name={connection.connector_name} slug={connection.connector_slug} size="large" />
        <div>
          <h1>
            <bdi>{nameOf(connection)}</bdi>
          </h1>
          <p>{connection.connector_name}</p>
        </div>
        <Pill tone={standing.tone}>{standing.word}</Pill>
      </div>
      <div className="stack">
        <ParametersDialog form={form} name={connection.connector_name} />
        <FlowNotice connect={connect} form={form} name={connection.connector_name} />
        {!reported && mismatch && <Mismatch connection={connection} connect={connect} />}
        {!reported && !mismatch && standing.why && (
          <Notice
            tone={standing.tone}
            actions={
              standing.remedy && (
                <button className="button compact" onClick={form.start}>
                  {standing.remedy}
                </button>
              )
            }
          >
            {standing.why}
            <Detail text={detailOf(connection)} />
          </Notice>
        )}
        {!reported && <MissingScopes connection={connection} start={form.start} />}
        {!reported && isFromElsewhere(connection) && <Elsewhere connection={connection} connect={connect} />}
        {!reported && failedReconnect(connection) && <Notice tone="warn">{failedReconnect(connection)}</Notice>}
        <section className="panel block" aria-label="About it">
          <Facts connection={connection} />
        </section>
        <section className="panel block" aria-labelledby="what-to-do">
          <h2 id="what-to-do">What you can do</h2>
          <div className="stack">
            <Rename connection={connection} held={held} />
            <div className="actions">
              {connected && (
                <button className="button" onClick={connect.start}>
                  Reconnect
                </button>
              )}
              {connected && (
                <button className="button" aria-disabled={held.busy !== null} onClick={() => void check()}>
                  {held.busy === "check" ? "Checking…" : "Check now"}
                </button>
              )}
              {!isNew(connection) && <Disconnect connection={connection} held={held} />}
              {isNew(connection) && !isRemoved && <Remove connection={connection} held={held} />}
            </div>
            <p role="status" className="small quiet live">
              {checked}
            </p>
          </div>
        </section>
        {controls && connection.nango_connection_id && isOAuth && (
          <Ageing controls={controls} nangoId={connection.nango_connection_id} onDone={() => void check()} />
        )}
        <History id={connection.id} />
      </div>
    </>
  );
}

function Facts({ connection }: { connection: Connection }) {
  const { connections } = useConnections();
  const used = lastUse(connection);
  const same = connections.filter((one) => connection.same_account_as.includes(one.id));
  return (
    <dl className="facts">
      <Fact name="Account"><Identity connection={connection} /></Fact>
      <Fact name="Connected">{connection.connected_at ? <Moment at={connection.connected_at} /> : "Not yet"}</Fact>
      <Fact name="Last used by a workflow">{used ? <Moment at={used} /> : "Not yet"}</Fact>
      <Fact name="Last checked">{connection.last_checked_at ? <Moment at={connection.last_checked_at} /> : "Not yet"}</Fact>
      {same.length > 0 && (
        <Fact name="Same account as">
          {same.map((one, index) => (
            <span key={one.id}>
              {index > 0 && ", "}
              <Link href={paths.connection(one.id)}>
                <bdi>{nameOf(one)}</bdi>
              </Link>
            </span>
          ))}
        </Fact>
      )}
      <Fact name="Connection id">
        <Copyable text={connection.id} what="Connection id" />
      </Fact>
    </dl>
  );
}

function Fact({ name, children }: { name: string; children: ReactNode }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}
