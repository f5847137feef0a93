import { PatchbayError, plain } from "@patchbay/react";
import { useLayoutEffect, useRef, type ReactNode } from "react";
import { troubleText, type Tone } from "../words.js";
import { Copyable } from "./copy.js";

/** Initials in a colour that depends only on the seed. */
export function Mark({ name, seed, size = "" }: { name: string; seed: string; size?: "" | "small" | "large" }) {
  let hash = 0;
  for (const char of seed) hash = (hash * 31 + (char.codePointAt(0) ?? 0)) % 997;
  // Sixteen hues are the most that users can distinguish.
  const hue = { "--hue": (hash % 16) * 22.5 } as React.CSSProperties;
  return (
    <span className={`mark ${size}`} style={hue} aria-hidden="true">
      {initials(name)}
    </span>
  );
}

function initials(name: string): string {
  const words = name.split(/[^\p{L}\p{N}]+/u).filter(Boolean);
  const [first = "?", second] = words;
  return second ? `${first.charAt(0)}${second.charAt(0)}`.toUpperCase() : first.slice(0, 2);
}

/** How something stands, in a word and a colour. */
export function Pill({ tone, children }: { tone: Tone; children: ReactNode }) {
  return (
    <span className={`pill tone-${tone}`}>
      <span className="dot" />
      {children}
    </span>
  );
}

/** Something to know, with what can be done about it. */
export function Notice({ tone, title, children, actions }: { tone: Tone; title?: string; children?: ReactNode; actions?: ReactNode }) {
  return (
    <div className={`notice tone-${tone}`}>
      <div>
        {title && <strong>{title}</strong>}
        {children}
      </div>
      {actions && <span className="actions">{actions}</span>}
    </div>
  );
}

/** An account in a line of its own: a provider's text is no part of our sentences. */
export function Account({ title = "Account", name }: { title?: string; name: string | null }) {
  return (
    <span className="account">
      {title}: <bdi>{name ?? "the provider does not say"}</bdi>
    </span>
  );
}

/** The text of a provider or the service, closed until it is asked for. */
export function Detail({ text }: { text: string | null }) {
  return (
    text && (
      <details className="detail">
        <summary>Details</summary>
        <bdi>{text}</bdi>
      </details>
    )
  );
}

/** A place with nothing in it, and why. `isPage` if the page has no other heading. */
export function Empty({ title, children, action, isPage }: { title: string; children?: ReactNode; action?: ReactNode; isPage?: boolean | undefined }) {
  const Heading = isPage ? "h1" : "h2";
  return (
    <div className="panel empty">
      <Heading>{title}</Heading>
      {children && <div className="empty-text">{children}</div>}
      {action}
    </div>
  );
}

/** Whether an error says that there is no such thing, or that its name cannot be one. */
export function isNotThere(error: Error): boolean {
  const codes = ["connection_not_found", "connector_not_found", "invalid_request"];
  return error instanceof PatchbayError && codes.includes(error.code);
}

/** What went wrong; behind "Details", what an operator needs of it. */
export function Why({ error }: { error: Error }) {
  const id = error instanceof PatchbayError ? error.requestId : undefined;
  return (
    <>
      {troubleText(error)}
      {id && (
        <details className="detail">
          <summary>Details</summary>
          <bdi>{plain(error.message)}</bdi>
          <span>
            Reference: <Copyable text={id} what="Reference" />
          </span>
        </details>
      )}
    </>
  );
}

/** What was not done, and why; read out at once. */
export function Refusal({ error }: { error: Error }) {
  return (
    <div role="alert">
      <Notice tone="bad">
        <Why error={error} />
      </Notice>
    </div>
  );
}

/** What could not be had, and the way to ask again. */
export function Trouble({ what, error, retry, isPage }: { what: string; error: Error; retry: () => void; isPage?: boolean }) {
  return (
    <div role="alert">
      <Empty
        title={what}
        isPage={isPage}
        action={
          <button className="button" onClick={retry}>
            Try again
          </button>
        }
      >
        <Why error={error} />
      </Empty>
    </div>
  );
}

/** Grey shapes where something will be. `isPage` if the page has no heading yet. */
export function Bones({ rows, label, isPage }: { rows: number; label: string; isPage?: boolean }) {
  return (
    <div className="panel rows" role="status" aria-label={label}>
      {isPage && <h1 className="hidden">{label}</h1>}
      {Array.from({ length: rows }, (_, row) => (
        <div key={row} className="row">
          <span className="bone" style={{ width: "32%" }} />
          <span className="bone" style={{ width: "54%" }} />
        </div>
      ))}
    </div>
  );
}

interface DialogProps {
  /** Its name. */
  label: string;
  onClose: () => void;
  children: ReactNode;
}

/** A question that has to be answered first. Escape and the backdrop's close are a no. The focus goes back to where it was. */
export function Dialog({ label, onClose, children }: DialogProps) {
  const ref = useRef<HTMLDialogElement>(null);
  // Before the effects of what is inside, which moves the focus.
  useLayoutEffect(() => {
    const dialog = ref.current;
    dialog?.showModal();
    return () => dialog?.close();
  }, []);
  return (
    <dialog ref={ref} className="dialog" aria-label={label} onClose={(event) => event.currentTarget.open || onClose()}>
      {children}
    </dialog>
  );
}
