import { RECOVERING, useConnect, useConnectForm, useConnections, usePatchbay, type Connection, type Connector } from "@patchbay/react";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { Link, paths } from "../router.js";
import { useTitle } from "../ui/hooks.js";
import { Plus } from "../ui/icons.js";
import { Logo } from "../ui/logo.js";
import { Bones, Empty, isNotThere, Notice, Trouble } from "../ui/parts.js";
import { AccountRow } from "./account-row.js";
import { FlowNotice } from "./flow-notice.js";
import { ParametersDialog } from "./parameters.js";

/** One connector, and the user's accounts of it. */
export function ConnectorPage({ slug }: { slug: string }) {
  const { client, cache } = usePatchbay();
  const query = useQuery({
    queryKey: cache.connectors("one", slug),
    queryFn: ({ signal }) => client.getConnector(slug, { signal }),
    ...RECOVERING,
  });
  const connections = useConnections();
  useTitle(query.data?.name ?? slug);
  const own = connections.connections.filter((connection) => connection.connector_slug === slug);
  return (
    <div className="page slim">
      <nav className="crumbs" aria-label="Where this is">
        <Link href={paths.catalog}>Catalog</Link> / {query.data?.name ?? slug}
      </nav>
      {query.error && !query.data && isNotThere(query.error) && (
        <Empty
          title="There is no such connector"
          isPage
          action={
            <Link className="button" href={paths.catalog}>
              To the catalog
            </Link>
          }
        />
      )}
      {query.error && !query.data && !isNotThere(query.error) && (
        <Trouble isPage what="This connector cannot be shown" error={query.error} retry={() => void query.refetch()} />
      )}
      {query.isPending && !query.error && <Bones isPage rows={2} label="The connector is loading" />}
      {query.data && connections.isLoading && !connections.isUnknown && <Bones isPage rows={2} label="The accounts are loading" />}
      {connections.isUnknown && connections.error && (
        <Trouble isPage={query.data !== undefined} what="Your accounts cannot be shown" error={connections.error} retry={() => void connections.refetch()} />
      )}
      {query.data && !connections.isLoading && !connections.isUnknown && <Accounts connector={query.data} connections={own} />}
    </div>
  );
}

function Accounts({ connector, connections }: { connector: Connector; connections: Connection[] }) {
  const current = connections.filter((connection) => connection.status !== "disconnected");
  const ended = connections.filter((connection) => connection.status === "disconnected");
  const obstacle = obstacleOf(connector);
  const instance = useFreeInstance(connections);
  const connect = useConnect({ connectorId: connector.slug, instanceId: instance });
  const form = useConnectForm(connect, connector.parameters);
  return (
    <>
      <div className="page-head">
        <Logo name={connector.name} slug={connector.slug} size="large" />
        <div>
          <h1>
            <bdi>{connector.name}</bdi>
          </h1>
          <p>{connector.category}</p>
        </div>
        {!obstacle && current.length > 0 && (
          <button className="button primary" onClick={form.start}>
            <Plus />
            Connect another account
          </button>
        )}
      </div>
      <div className="stack">
        {obstacle && (
          <Notice tone="warn" title="It cannot be connected here">
            {obstacle}
          </Notice>
        )}
        <ParametersDialog form={form} name={connector.name} />
        <FlowNotice connect={connect} form={form} name={connector.name} />
        {!obstacle && current.length === 0 && (
          <Empty
            title={`No ${connector.name} account yet`}
            action={
              <button className="button primary" onClick={form.start}>
                Connect {connector.name}
              </button>
            }
          >
            A window opens in which {connector.name} asks you to allow access. You can disconnect it here at any time.
          </Empty>
        )}
        {current.length > 0 && (
          <ul className="panel rows" aria-label={`Your ${connector.name} accounts`}>
            {current.map((connection) => (
              <AccountRow key={connection.id} connection={connection} />
            ))}
          </ul>
        )}
        {ended.length > 0 && (
          <details className="list-group" open={current.length === 0}>
            <summary>Disconnected ({ended.length})</summary>
            <ul className="panel rows" aria-label={`Your disconnected ${connector.name} accounts`}>
              {ended.map((connection) => (
                <AccountRow key={connection.id} connection={connection} />
              ))}
            </ul>
          </details>
        )}
      </div>
    </>
  );
}

function obstacleOf(connector: Connector): string | null {
  if (!connector.available) return connector.unavailable_reason ?? "It is not available.";
  if (connector.configured === false) return "It is not set up yet. Ask whoever runs this service to set it up.";
  return null;
}

/** The instance id of the next account: the empty one while it is free, otherwise an unused one. */
function useFreeInstance(connections: Connection[]): string {
  const [fresh, setFresh] = useState(newInstance);
  const first = connections.find((connection) => connection.instance_id === "");
  // Once the row exists, it shows the attempt in progress.
  if (connections.some((connection) => connection.instance_id === fresh)) setFresh(newInstance());
  return !first || first.status === "disconnected" ? "" : fresh;
}

function newInstance(): string {
  return crypto.randomUUID().slice(0, 8);
}
