import { useConnections, type Connection } from "@patchbay/react";
import { Link, paths } from "../router.js";
import { useTitle } from "../ui/hooks.js";
import { Bones, Empty, Trouble } from "../ui/parts.js";
import { standingOf } from "../words.js";
import { AccountRow } from "./account-row.js";

/** All accounts of the user: first those that need them, then those that work, last those that were ended. */
export function ConnectionsPage() {
  useTitle("Connections");
  const { connections, isLoading, isUnknown, error, refetch } = useConnections();
  const ended = connections.filter((connection) => connection.status === "disconnected");
  const working = connections.filter((connection) => standingOf(connection).tone === "good");
  const others = connections.filter((connection) => !ended.includes(connection) && !working.includes(connection));
  return (
    <div className="page slim">
      <div className="page-head">
        <div>
          <h1>Connections</h1>
          <p>The accounts that your workflows may use.</p>
        </div>
        <Link className="button" href={paths.catalog}>
          Connect an account
        </Link>
      </div>
      {isLoading && !isUnknown && <Bones rows={3} label="Your connections are loading" />}
      {isUnknown && error && <Trouble what="Your connections cannot be shown" error={error} retry={() => void refetch()} />}
      {!isLoading && !isUnknown && connections.length === 0 && (
        <Empty
          title="Nothing is connected yet"
          action={
            <Link className="button primary" href={paths.catalog}>
              To the catalog
            </Link>
          }
        >
          Connect an account from the catalog. This page then shows its status and history.
        </Empty>
      )}
      <Group title="Needs attention" connections={others} />
      <Group title="Connected" connections={working} />
      {ended.length > 0 && (
        <details className="list-group">
          <summary>Disconnected ({ended.length})</summary>
          <Rows connections={ended} label="Disconnected" />
        </details>
      )}
    </div>
  );
}

function Group({ title, connections }: { title: string; connections: Connection[] }) {
  if (connections.length === 0) return null;
  return (
    <section className="list-group" aria-label={title}>
      <h2>{title}</h2>
      <Rows connections={connections} label={title} />
    </section>
  );
}

function Rows({ connections, label }: { connections: Connection[]; label: string }) {
  return (
    <ul className="panel rows" aria-label={label}>
      {connections.map((connection) => (
        <AccountRow key={connection.id} connection={connection} withConnector />
      ))}
    </ul>
  );
}
