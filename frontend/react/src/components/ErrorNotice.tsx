import type { ReactNode } from "react";
import { PatchbayError } from "../client/error.js";
import { useMessages } from "../react/context.js";
import type { Messages } from "../react/messages.js";

/** What to say of an error. */
export function errorText(error: Error, messages: Messages): string {
  if (error instanceof PatchbayError) return messages.errors[error.code] ?? error.detail;
  return error.message;
}

/** An error, read out at once, with what can be done about it. */
export function ErrorNotice({ error, onRetry }: { error: Error; onRetry?: (() => void) | undefined }): ReactNode {
  const messages = useMessages();
  const id = error instanceof PatchbayError ? error.requestId : undefined;
  return (
    <div data-patchbay="error" role="alert">
      <p title={id}>{errorText(error, messages)}</p>
      {onRetry && (
        <button type="button" data-patchbay="button" onClick={onRetry}>
          {messages.retry}
        </button>
      )}
    </div>
  );
}
