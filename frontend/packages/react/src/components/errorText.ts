import { PatchbayError } from "@patchbay/client";
import type { ConnectMessages } from "../react/messages.js";

/** What to say of an error. What has no message, the service's own detail says, unless it is of no use to a user. */
export function errorText(error: Error, messages: ConnectMessages): string {
  if (!(error instanceof PatchbayError)) return error.message;
  const { errors } = messages;
  return errors[error.code] ?? (error.status >= 500 ? errors.internal : undefined) ?? error.detail;
}
