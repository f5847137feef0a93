import { plain } from "@patchbay/client";
import type { ReactNode } from "react";
import { useMessages } from "../react/useMessages.js";
import { useConnectionHistory } from "../react/useConnectionHistory.js";
import { Button } from "./Button.js";
import { ErrorNotice } from "./ErrorNotice.js";
import { Sentence } from "./Sentence.js";

/** What has happened to a connection, the newest first. */
export function ConnectionHistory({ connectionId, className }: { connectionId: string; className?: string }): ReactNode {
  const messages = useMessages();
  const { events, isLoading, error, hasMore, loadMore, refetch } = useConnectionHistory(connectionId);
  if (error) return <ErrorNotice error={error} onRetry={() => void refetch()} />;
  if (isLoading) return <p aria-busy="true">{messages.loading}</p>;
  return (
    <div data-patchbay="history" className={className}>
      <ol>
        {events.map((event) => (
          <li key={event.id} data-kind={event.kind}>
            <time dateTime={event.created_at} title={new Date(event.created_at).toLocaleString()}>
              {messages.time(new Date(event.created_at))}
            </time>{" "}
            <span>{event.rename ? messages.renamed : (messages.events[event.kind] ?? event.kind)}</span>
            {event.kind === "attempt_failed" && event.status_reason && <span>: {messages.reasons[event.status_reason]}</span>}
            {event.rename && (
              <span data-patchbay="history-detail">
                {messages.nameFrom} <bdi>{plain(event.rename.from) ?? messages.noName}</bdi> {messages.nameTo}{" "}
                <bdi>{plain(event.rename.to) ?? messages.noName}</bdi>
              </span>
            )}
            {event.actor && event.actor !== "system" && <span data-patchbay="history-detail">{messages.actors[event.actor]}</span>}
            {event.account && (
              <span data-patchbay="history-detail">
                <Sentence of={messages.account} name={plain(event.account) ?? ""} />
              </span>
            )}
            {event.detail && (
              <details data-patchbay="details">
                <summary>{messages.details}</summary>
                <bdi>{plain(event.detail)}</bdi>
              </details>
            )}
          </li>
        ))}
      </ol>
      {hasMore && (
        <Button kind="quiet" onClick={() => void loadMore()}>
          {messages.loadMore}
        </Button>
      )}
    </div>
  );
}
