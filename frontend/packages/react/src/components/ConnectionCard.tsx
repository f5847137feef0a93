import { useEffect, useId, useRef, useState, type ReactNode } from "react";
import { useMessages } from "../react/useMessages.js";
import { missingScopes, nameOf, type Connection } from "@patchbay/client";
import type { Messages } from "../react/messages.js";
import { useConnectionActions } from "../react/useConnectionActions.js";
import { useKeptFocus } from "../react/useKeptFocus.js";
import { Button } from "./Button.js";
import { ConnectButton } from "./ConnectButton.js";
import { ConnectionStatus } from "./ConnectionStatus.js";
import { ConnectorLogo } from "./ConnectorLogo.js";
import { ErrorNotice } from "./ErrorNotice.js";
import { AccountIdentity, cardParts, ConnectionHistory, DisconnectQuestion, MissingScopes, RenameForm } from "./card-lazy.js";
import { Sentence } from "./Sentence.js";

type Part = "rename" | "disconnect" | "history";

/** Props of `ConnectionCard`. */
export interface ConnectionCardProps {
  connection: Connection;
  /** Called with the message after a disconnect or removal, where the card goes away with it; else the card shows it. */
  onDisconnected?: ((said: ReactNode) => void) | undefined;
  className?: string | undefined;
}

/** One connection in full: what it is called, how it stands, and everything that can be done with it. */
export function ConnectionCard({ connection, onDisconnected, className }: ConnectionCardProps): ReactNode {
  const messages = useMessages();
  const id = useId();
  const it = useConnectionActions(connection.id);
  const act = useAct();
  const kept = useKeptFocus<HTMLLIElement>();
  const [open, setOpen] = useState<Part | null>(null);
  // They are there before the click.
  useEffect(() => void cardParts.load(), []);
  const buttons = useRef<Partial<Record<Part, HTMLButtonElement | null>>>({});
  const back = useRef<Part | null>(null);
  const close = () => {
    back.current = open;
    setOpen(null);
  };
  // The focus goes back to the button that has opened what is closed now.
  useEffect(() => {
    if (open === null && back.current) buttons.current[back.current]?.focus();
    back.current = null;
  }, [open]);

  const name = nameOf(connection);
  const ended = connection.status === "disconnected";
  // What never was connected ends no workflow, so there is nothing to confirm.
  const removable = ended || !connection.connected_at;
  /** Says what became of it, where that is still seen. */
  const left = (message: (name: string) => string) => {
    const said = <Sentence of={message} name={name} />;
    onDisconnected?.(said);
    return onDisconnected ? "" : said;
  };
  const toggle = (part: Part, words: string) => (
    <Button
      buttonRef={(button) => {
        buttons.current[part] = button;
      }}
      kind="quiet"
      aria-expanded={open === part}
      onClick={() => setOpen(open === part ? null : part)}
    >
      {words}
    </Button>
  );
  return (
    <li ref={kept} data-patchbay="connection" data-status={connection.status} aria-labelledby={id} className={className}>
      <ConnectorLogo connector={{ slug: connection.connector_slug, name: connection.connector_name }} />
      <Facts connection={connection} id={id} />
      <ConnectionStatus connection={connection} />
      <MissingScopes connection={connection} />
      <div data-patchbay="actions" role="group" aria-label={messages.actionsOf(name)}>
        <ConnectButton
          connectorId={connection.connector_slug}
          connectorName={connection.connector_name}
          instanceId={connection.instance_id}
          // What never was connected is connected, not reconnected.
          connectionId={ended || !connection.connected_at ? undefined : connection.id}
        >
          {missingScopes(connection).length > 0 ? messages.askForScopes : undefined}
        </ConnectButton>
        {connection.status === "connected" && (
          <Button kind="quiet" off={it.busy !== null} onClick={() => act.run(it.check, (now) => checkedText(now, messages))}>
            {messages.check}
          </Button>
        )}
        {!ended && toggle("rename", messages.rename)}
        {toggle("history", messages.history)}
        {!removable && toggle("disconnect", messages.disconnect)}
        {removable && (
          <Button
            kind="quiet"
            off={it.busy !== null}
            onClick={() =>
              act.run(it.remove, () => left(messages.removed))
            }
          >
            {messages.remove}
          </Button>
        )}
      </div>
      <p data-patchbay="flow-text" role="status">
        {act.said}
      </p>
      {act.error && <ErrorNotice error={act.error} onRetry={act.again} />}
      {open === "rename" && (
        <RenameForm
          label={connection.label ?? ""}
          busy={it.busy === "rename"}
          onSave={(label) => act.run(() => it.rename(label), () => messages.saved, close)}
          onCancel={close}
        />
      )}
      {open === "disconnect" && !ended && (
        <DisconnectQuestion
          name={name}
          busy={it.busy === "disconnect"}
          onConfirm={() =>
            act.run(
              it.disconnect,
              (answer) => left(answer.upstream_deleted ? messages.disconnected : messages.disconnectedLater),
              close,
            )
          }
          onCancel={close}
        />
      )}
      {open === "history" && <ConnectionHistory connectionId={connection.id} />}
    </li>
  );
}

/** What a check has found; empty where it does not work, of which the status says why. */
function checkedText(connection: Connection, messages: Messages): string {
  if (connection.status !== "connected") return "";
  return connection.failing_since ? messages.failing : messages.checked;
}

/** When a workflow last used it; null if none did since it was connected. */
function lastUse({ last_synced_at: last, connected_at: connected }: Connection): Date | null {
  return last && last !== connected ? new Date(last) : null;
}

function Facts({ connection, id }: { connection: Connection; id: string }): ReactNode {
  const messages = useMessages();
  const name = nameOf(connection);
  const used = lastUse(connection);
  return (
    <div data-patchbay="card-title">
      <strong id={id}>
        <bdi>{name}</bdi>
      </strong>
      {name !== connection.connector_name && <span>{connection.connector_name}</span>}
      <AccountIdentity connection={connection} />
      {connection.status !== "disconnected" && (
        <span>
          {used ? (
            <>
              {messages.lastUsed} <time dateTime={used.toISOString()}>{messages.time(used)}</time>
            </>
          ) : (
            messages.neverUsed
          )}
        </span>
      )}
      {connection.same_account_as.length > 0 && <span>{messages.sameAccount}</span>}
    </div>
  );
}

interface Act {
  error: Error | null;
  said: ReactNode;
  again: () => void;
  run: <T>(work: () => Promise<T>, say: (result: T) => ReactNode, done?: () => void) => void;
}

/** Does one thing after another, says what came of the last, and can do it again. */
function useAct(): Act {
  const [error, setError] = useState<Error | null>(null);
  const [said, setSaid] = useState<ReactNode>("");
  const last = useRef<() => void>(() => {});
  function run<T>(work: () => Promise<T>, say: (result: T) => ReactNode, done?: () => void): void {
    last.current = () => run(work, say, done);
    setError(null);
    setSaid("");
    work().then(
      (result) => {
        setSaid(say(result));
        done?.();
      },
      (cause: unknown) => setError(cause instanceof Error ? cause : new Error(String(cause))),
    );
  }
  return { error, said, again: () => last.current(), run };
}
