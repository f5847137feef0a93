import type { ReactNode } from "react";
import { missingScopes, type Connection } from "@patchbay/client";
import { useMessages } from "../react/useMessages.js";

/** The scopes that were asked for and not granted: what they are for may not work. */
export function MissingScopes({ connection }: { connection: Connection }): ReactNode {
  const messages = useMessages();
  const missing = missingScopes(connection);
  if (missing.length === 0) return null;
  return (
    <p data-patchbay="missing-scopes">
      {messages.missingScopes}{" "}
      {missing.map((scope, index) => (
        <span key={scope}>
          {index > 0 && ", "}
          <bdi>{scope}</bdi>
        </span>
      ))}
    </p>
  );
}
