import type { ReactNode } from "react";
import { accountOf, nameOf, plain, type Connection } from "@patchbay/client";
import { AccountLine } from "./AccountLine.js";
import { Picture } from "./Picture.js";

/** The account of a connection, as far as the connection's name leaves it open: picture, name, e-mail address, workspace. */
export function AccountIdentity({ connection }: { connection: Connection }): ReactNode {
  const { account } = connection;
  const name = accountOf(connection);
  if (!account || name === null) return null;
  const shown = [nameOf(connection), name];
  const more = [plain(account.email), plain(account.workspace_name)].filter((text) => text !== null && !shown.includes(text));
  return (
    <span data-patchbay="identity">
      <Picture kind="avatar" src={account.avatar_url} name={name} seed={account.id} />
      <span>
        {name !== nameOf(connection) && <AccountLine connection={connection} />}
        {more.map((text) => (
          <span key={text} data-patchbay="account">
            <bdi>{text}</bdi>
          </span>
        ))}
      </span>
    </span>
  );
}
