import { plain, useConnectionHistory, type ConnectionEvent } from "@patchbay/react";
import { Bones, Detail, Trouble } from "../ui/parts.js";
import { Moment } from "../ui/time.js";
import { eventWords } from "../words.js";

/** What has happened to a connection, the newest first. */
export function History({ id }: { id: string }) {
  const { events, isLoading, error, refetch, hasMore, loadMore, isLoadingMore } = useConnectionHistory(id);
  if (error && events.length === 0) return <Trouble what="The history cannot be shown" error={error} retry={() => void refetch()} />;
  if (isLoading) return <Bones rows={2} label="The history is loading" />;
  return (
    <section className="panel block" aria-labelledby="history">
      <h2 id="history">History</h2>
      <ol className="history">
        {events.map((event) => {
          const { title, tone } = eventWords(event);
          return (
            <li key={event.id} className={`tone-${tone}`}>
              <strong>{title}</strong>
              <Moment at={event.created_at} />
              <About event={event} />
              <Detail text={plain(event.detail)} />
            </li>
          );
        })}
      </ol>
      {hasMore && (
        <button className="button" aria-disabled={isLoadingMore} onClick={() => void loadMore()}>
          Show earlier events
        </button>
      )}
    </section>
  );
}

const ACTORS = { user: "by you", service: "by a service", system: null };

/** Who caused an event, which account it was then, and how it was renamed. */
function About({ event }: { event: ConnectionEvent }) {
  const { rename, account } = event;
  const actor = event.actor ? ACTORS[event.actor] : null;
  if (!rename && !actor && !account) return null;
  return (
    <p className="about quiet small">
      {rename && (
        <>
          from <bdi>{plain(rename.from) ?? "no name"}</bdi> to <bdi>{plain(rename.to) ?? "no name"}</bdi>
        </>
      )}
      {rename && (actor || account) && " · "}
      {actor}
      {actor && account && " · "}
      {account && <bdi>{plain(account)}</bdi>}
    </p>
  );
}
