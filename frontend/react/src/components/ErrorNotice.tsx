import type { ReactNode } from "react";
import { PatchbayError } from "../client/error.js";
import { useMessages } from "../react/context.js";
import type { Messages } from "../react/messages.js";

/** What to say of an error. A newer service may have a code without words here: then its own serve. */
export function errorText(error: Error, messages: Messages): string {
  if (error instanceof PatchbayError) return messages.errors[error.code] ?? error.detail;
  return error.message;
}

/** What to tell support, so that they find an error in the service's log; nothing where the service has not said. */
export function Reference({ error }: { error: Error }): ReactNode {
  const messages = useMessages();
  if (!(error instanceof PatchbayError) || !error.requestId) return null;
  return <small data-patchbay="reference">{messages.reference(error.requestId)}</small>;
}

/** An error, read out at once, with what can be done about it. */
export function ErrorNotice({ error, onRetry }: { error: Error; onRetry?: (() => void) | undefined }): ReactNode {
  const messages = useMessages();
  return (
    <div data-patchbay="error" role="alert">
      <p>{errorText(error, messages)}</p>
      <Reference error={error} />
      {onRetry && (
        <button type="button" data-patchbay="button" onClick={onRetry}>
          {messages.retry}
        </button>
      )}
    </div>
  );
}
