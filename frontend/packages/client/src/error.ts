import type { ProblemCode } from "./types.js";

/**
 * What went wrong: a code of the service's, or one of the client's own.
 *
 * - `session_expired`: there is no token, or a fresh one was refused, too: the user has to sign in again
 * - `user_changed`: `getToken` has returned another user's token: create a client for that user
 * - `token_unavailable`: `getToken` threw
 * - `network`: no answer came; whether the request was done is not known
 * - `unreadable`: an answer that is not Patchbay's, a proxy's error page for example
 */
export type ErrorCode = ProblemCode | "session_expired" | "user_changed" | "token_unavailable" | "network" | "unreadable";

/** What a `PatchbayError` is made of: the fields of an RFC 9457 problem. */
export interface ErrorFields {
  status: number;
  code: ErrorCode;
  title: string;
  detail: string;
  requestId?: string | undefined;
  retryAfter?: number | undefined;
  candidates?: readonly string[] | undefined;
  cause?: unknown;
}

/** An answer that is not the one asked for, or none. Its `message` is the detail, for a person to read. */
export class PatchbayError extends Error {
  override readonly name = "PatchbayError";
  /** The HTTP status; 0 if there was no answer. */
  declare readonly status: number;
  /** For programs to decide on. */
  declare readonly code: ErrorCode;
  /** The code in a few words. */
  declare readonly title: string;
  /** What happened this time, for a person to read. */
  declare readonly detail: string;
  /** The id under which the service's log tells more. */
  declare readonly requestId: string | undefined;
  /** After how many seconds to try again, if the service says. */
  declare readonly retryAfter: number | undefined;
  /** With `ambiguous_connection`: the connections to choose from. */
  declare readonly candidates: readonly string[] | undefined;

  constructor(fields: ErrorFields) {
    super(fields.detail);
    Object.assign(this, fields);
  }

  /** `true` if the same request may work later as it is. What is not Patchbay's response counts as an outage, whatever its status. */
  get transient(): boolean {
    return this.status >= 500 || this.status === 429 || TRANSIENT.includes(this.code);
  }
}

const TRANSIENT: readonly ErrorCode[] = ["network", "unreadable", "token_unavailable", "request_timeout"];

/** The longest pause that a response may ask for, in seconds. A gateway may ask for days, which no page waits. */
const LONGEST_RETRY_AFTER = 300;

/** An error of the client's own. */
export function ownError(code: ErrorCode, detail: string, cause?: unknown, status = 0): PatchbayError {
  return new PatchbayError({ status, code, title: detail, detail, cause });
}

/** The error of a response. Only a problem of the service's own means what its status says. */
export async function errorOf(response: Response): Promise<PatchbayError> {
  const { status, headers } = response;
  const isOurs = headers.get("content-type")?.includes("problem+json");
  const body: unknown = await (isOurs ? response.json() : response.body?.cancel())?.catch(() => null);
  const problem = (body ?? {}) as Record<string, unknown>;
  const text = (name: string, otherwise: string) => (typeof problem[name] === "string" ? problem[name] : otherwise);
  const code = text("code", "unreadable") as ErrorCode;
  const detail = text("detail", `The server answered ${status}`);
  const title = text("title", detail);
  const candidates = Array.isArray(problem["candidates"]) ? (problem["candidates"] as string[]) : undefined;
  const retryAfter = Math.min(Math.max(Number(headers.get("retry-after")) || 0, 0), LONGEST_RETRY_AFTER) || undefined;
  const requestId = text("request_id", headers.get("x-request-id") ?? "") || undefined;
  return new PatchbayError({ status, code, title, detail, candidates, retryAfter, requestId });
}
