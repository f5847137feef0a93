import { accountOf, missingScopes, plain, type Connection } from "@patchbay/react";
import { Mark, Notice } from "../ui/parts.js";

/** Why an account is not known, for the user. A newer service may have other reasons. */
const REASONS: Record<string, string> = {
  not_offered: "Not known: the provider does not say",
  missing_scope: "Not known: the permission to read it was not granted",
  provider_unavailable: "Not known yet: the provider does not answer",
  missing_config: "Not known yet",
};

/**
 * The account of a connection: initials, name, e-mail address and workspace. There is no picture: the page makes no request
 * to a provider.
 */
export function Identity({ connection }: { connection: Connection }) {
  const { account, account_unknown_reason: reason } = connection;
  const name = accountOf(connection);
  if (!account || name === null) return REASONS[reason ?? ""] ?? "Not known";
  const more = [plain(account.email), plain(account.workspace_name)].filter((text) => text !== null && text !== name);
  return (
    <span className="identity">
      <Mark name={name} seed={account.id} size="small" />
      <span>
        <bdi>{name}</bdi>
        {more.map((text) => (
          <span key={text} className="quiet small">
            <bdi>{text}</bdi>
          </span>
        ))}
      </span>
    </span>
  );
}

/** The scopes that the user did not grant, with the button that asks for them again. */
export function MissingScopes({ connection, start }: { connection: Connection; start: () => void }) {
  const missing = missingScopes(connection);
  if (missing.length === 0) return null;
  return (
    <Notice
      tone="warn"
      title="Some permissions were not granted"
      actions={
        <button className="button compact" onClick={start}>
          Allow the rest
        </button>
      }
    >
      Workflows that need them do not work.
      <span className="account">
        Not granted: <bdi>{missing.join(", ")}</bdi>
      </span>
    </Notice>
  );
}
