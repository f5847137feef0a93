import type { ReactNode } from "react";
import { PatchbayError, plain } from "@patchbay/client";
import { useConnectMessages } from "../react/context.js";
import type { ConnectMessages } from "../react/messages.js";
import { Button } from "./Button.js";

/** What to say of an error. What has no message, the service's own detail says, unless it is of no use to a user. */
export function errorText(error: Error, messages: ConnectMessages): string {
  if (!(error instanceof PatchbayError)) return error.message;
  const { errors } = messages;
  return errors[error.code] ?? (error.status >= 500 ? errors.internal : undefined) ?? error.detail;
}

/** What an operator needs of an error, closed until it is asked for. Nothing where the service has said nothing. */
export function Details({ error }: { error: Error }): ReactNode {
  const messages = useConnectMessages();
  if (!(error instanceof PatchbayError) || !error.requestId) return null;
  return (
    <details data-patchbay="details">
      <summary>{messages.details}</summary>
      <bdi>{plain(error.detail)}</bdi> <small>{messages.reference(error.requestId)}</small>
    </details>
  );
}

/** An error, read out at once, with what can be done about it. */
export function ErrorNotice({ error, onRetry }: { error: Error; onRetry?: (() => void) | undefined }): ReactNode {
  const messages = useConnectMessages();
  return (
    <div data-patchbay="error" role="alert">
      <p>{errorText(error, messages)}</p>
      <Details error={error} />
      {onRetry && <Button onClick={onRetry}>{messages.retry}</Button>}
    </div>
  );
}
