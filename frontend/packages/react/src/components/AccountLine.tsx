import type { ReactNode } from "react";
import { useConnectMessages } from "../react/useConnectMessages.js";
import { accountOf, type Connection } from "@patchbay/client";
import { Sentence } from "./Sentence.js";

/** Whose account a connection is, where the provider tells, in a line of its own: a provider's text is no part of ours. */
export function AccountLine({ connection }: { connection: Connection }): ReactNode {
  const messages = useConnectMessages();
  const account = accountOf(connection);
  if (account === null) return null;
  return (
    <span data-patchbay="account">
      <Sentence of={messages.account} name={account} />
    </span>
  );
}
