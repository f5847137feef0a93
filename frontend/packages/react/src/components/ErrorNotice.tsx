import type { ReactNode } from "react";
import { PatchbayError } from "@patchbay/client";
import { useConnectMessages } from "../react/context.js";
import type { ConnectMessages } from "../react/messages.js";
import { Button } from "./Button.js";

/** What to say of an error. What has no message, the service's own detail says, unless it is of no use to a user. */
export function errorText(error: Error, messages: ConnectMessages): string {
  if (!(error instanceof PatchbayError)) return error.message;
  const { errors } = messages;
  return errors[error.code] ?? (error.status >= 500 ? errors.internal : undefined) ?? error.detail;
}

/** What to tell support, so that they find an error in the service's log; nothing where the service has not said. */
export function Reference({ error }: { error: Error }): ReactNode {
  const messages = useConnectMessages();
  if (!(error instanceof PatchbayError) || !error.requestId) return null;
  return <small data-patchbay="reference">{messages.reference(error.requestId)}</small>;
}

/** An error, read out at once, with what can be done about it. */
export function ErrorNotice({ error, onRetry }: { error: Error; onRetry?: (() => void) | undefined }): ReactNode {
  const messages = useConnectMessages();
  return (
    <div data-patchbay="error" role="alert">
      <p>{errorText(error, messages)}</p>
      <Reference error={error} />
      {onRetry && <Button onClick={onRetry}>{messages.retry}</Button>}
    </div>
  );
}
