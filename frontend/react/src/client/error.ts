import type { ProblemCode } from "../types.js";

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
  readonly status: number;
  /** For programs to decide on. */
  readonly code: ErrorCode;
  /** The code in a few words. */
  readonly title: string;
  /** What happened this time, for a person to read. */
  readonly detail: string;
  /** The id under which the service's log tells more. */
  readonly requestId: string | undefined;
  /** After how many seconds to try again, if the service says. */
  readonly retryAfter: number | undefined;
  /** With `ambiguous_connection`: the connections to choose from. */
  readonly candidates: readonly string[] | undefined;

  constructor(fields: ErrorFields) {
    super(fields.detail, fields.cause === undefined ? undefined : { cause: fields.cause });
    this.status = fields.status;
    this.code = fields.code;
    this.title = fields.title;
    this.detail = fields.detail;
    this.requestId = fields.requestId;
    this.retryAfter = fields.retryAfter;
    this.candidates = fields.candidates;
  }

  /** Whether the same request may work later without anybody changing anything. */
  get transient(): boolean {
    return this.status >= 500 || this.status === 429 || ["network", "token_unavailable", "request_timeout"].includes(this.code);
  }
}

/** The error of an answer, whatever its body is. */
export async function errorOf(response: Response): Promise<PatchbayError> {
  const retryAfter = Number.parseInt(response.headers.get("retry-after") ?? "", 10);
  const common = {
    status: response.status,
    requestId: response.headers.get("x-request-id") ?? undefined,
    retryAfter: Number.isNaN(retryAfter) ? undefined : retryAfter,
  };
  const body: unknown = await response.json().catch(() => undefined);
  if (isProblem(body)) {
    return new PatchbayError({
      ...common,
      code: body.code,
      title: body.title ?? "",
      detail: body.detail ?? "",
      requestId: body.request_id ?? common.requestId,
      candidates: body.candidates ?? undefined,
    });
  }
  return new PatchbayError({
    ...common,
    code: "unreadable",
    title: "The answer is not Patchbay's",
    detail: `The server answered ${response.status} without saying why`,
  });
}

interface LooseProblem {
  code: ProblemCode;
  title?: string;
  detail?: string;
  request_id?: string | null;
  candidates?: string[] | null;
}

function isProblem(body: unknown): body is LooseProblem {
  return typeof body === "object" && body !== null && typeof (body as { code?: unknown }).code === "string";
}
