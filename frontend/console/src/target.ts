import type { Connection, FlowTarget } from "@patchbay/react";

/** How to authorize a connection: again if it works, else as a new attempt of the same account. */
export function targetOf(connection: Connection): FlowTarget {
  if (connection.status === "connected") return { connectionId: connection.id };
  return { connectorId: connection.connector_slug, instanceId: connection.instance_id };
}
