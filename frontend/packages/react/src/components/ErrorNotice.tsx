import type { ReactNode } from "react";
import { PatchbayError, plain } from "@patchbay/client";
import { useConnectMessages } from "../react/useConnectMessages.js";
import { Button } from "./Button.js";
import { errorText } from "./errorText.js";

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
