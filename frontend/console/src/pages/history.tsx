import { ConnectionHistory } from "@patchbay/react";

/** What has happened to a connection, the newest first. */
export function History({ id }: { id: string }) {
  return (
    <section className="panel block" aria-labelledby="history">
      <h2 id="history">History</h2>
      <ConnectionHistory connectionId={id} className="history" />
    </section>
  );
}
