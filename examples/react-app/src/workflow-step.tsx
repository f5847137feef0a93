import { ConnectionPicker } from "@patchbay/react";
import { useState } from "react";

/** A workflow's step keeps a connection's id, and the workflow engine asks Patchbay for a token with it. */
export function WorkflowStep() {
  const [connectionId, setConnectionId] = useState<string | null>(null);
  const step = { type: "send_email", connector: "gmail", connection_id: connectionId };
  return (
    <section>
      <h2>Send an e-mail</h2>
      <ConnectionPicker connectorId="gmail" connectorName="Gmail" value={connectionId} onChange={setConnectionId} />
      <pre>{JSON.stringify(step, null, 2)}</pre>
    </section>
  );
}
