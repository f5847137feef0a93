import { ConnectionManager, ConnectorCatalog, useConnections, useSession } from "@patchbay/react";
import { useState } from "react";
import { user } from "./session";
import { WorkflowStep } from "./workflow-step";

const PAGES = ["Catalog", "Connections", "Workflow"] as const;

/** A product's three places for connections: to find one, to look after them, and to use one. */
export function App() {
  const [page, setPage] = useState<(typeof PAGES)[number]>("Catalog");
  const { connections } = useConnections();
  const session = useSession();
  const connected = connections.filter((connection) => connection.status === "connected").length;
  return (
    <main>
      <header>
        <h1>A product with connections</h1>
        <p>
          {user} has {connected} of them.
        </p>
        <nav>
          {PAGES.map((name) => (
            <button key={name} type="button" aria-current={name === page ? "page" : undefined} onClick={() => setPage(name)}>
              {name}
            </button>
          ))}
        </nav>
      </header>
      {session.expired && (
        <p role="alert">
          Your session has ended.{" "}
          <button type="button" onClick={() => void session.retry()}>
            Sign in again
          </button>
        </p>
      )}
      {page === "Catalog" && <ConnectorCatalog />}
      {page === "Connections" && <ConnectionManager />}
      {page === "Workflow" && <WorkflowStep />}
    </main>
  );
}
