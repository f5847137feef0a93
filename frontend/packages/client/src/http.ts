import { errorOf, ownError, PatchbayError } from "./error.js";
import { Session } from "./session.js";
import { fits } from "./shape.js";
import { withTimeout } from "./timeout.js";

/** Patchbay's address, and the user's credentials. */
export interface ClientOptions {
  /** Patchbay's address, such as `https://connect.example.com`; empty for the page's own origin. */
  baseUrl: string;
  /**
   * Returns the user's token, as issued by the identity provider; null if no user is signed in. The client calls it
   * before every request, so it should return a cached token. After a token was rejected, the client passes `fresh`: return
   * a new one. If it takes longer than ten seconds, the request fails.
   */
  getToken: (options: { fresh: boolean }) => string | null | undefined | Promise<string | null | undefined>;
  /**
   * `include` where Patchbay is of the page's own site, though at another origin, and tells browsers apart
   * (`CONNECT_BINDING`): its cookie then goes with the requests. `same-origin` if left out.
   */
  credentials?: RequestCredentials | undefined;
  /** Another `fetch` than the global one. */
  fetch?: typeof fetch;
}

/** What a request consists of, besides its path. */
export interface RequestParts {
  method?: "GET" | "POST" | "PATCH" | "DELETE";
  query?: Record<string, string | number | null | undefined>;
  body?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal | undefined;
}

/** Longer than the service lets any request take. */
const TIMEOUT_MS = 65_000;

/** How long `getToken` may take. */
const TOKEN_TIMEOUT_MS = 10_000;

/** Clocks that differ less than this are the same: `Date` counts seconds, and responses take time. */
const CLOCK_TOLERANCE_MS = 5_000;

/** Authorized requests. A refused token is replaced once by a fresh one; then the session counts as expired. */
export class Http {
  readonly session = new Session();
  readonly #options: ClientOptions;
  /** How far the service's clock is ahead of this one's, in milliseconds. */
  #ahead = 0;

  constructor(options: ClientOptions) {
    this.#options = options;
  }

  /** Patchbay's address. Looked up when it is needed: where a page is rendered on a server there is no location. */
  get base(): URL {
    const here = typeof location === "undefined" ? undefined : location.origin;
    return new URL(this.#options.baseUrl.replace(/\/*$/, "/"), here);
  }

  /** The service's time, as `Date.now()` counts it. */
  now(): number {
    return Date.now() + this.#ahead;
  }

  /** Returns an endpoint's JSON response, which must have this shape. `path` is below `/api/v1/connectors`. */
  async json<T>(path: string, shape: string, parts: RequestParts = {}): Promise<T> {
    const limit = AbortSignal.timeout(TIMEOUT_MS);
    try {
      const signal = parts.signal ? AbortSignal.any([limit, parts.signal]) : limit;
      const response = await this.open(path, { ...parts, signal });
      const body: unknown = await response.json();
      if (fits(body, shape)) return body as T;
    } catch (error) {
      // An abort by the caller rejects as `fetch` does; all other errors become a `PatchbayError`.
      if (parts.signal?.aborted || error instanceof PatchbayError) throw error;
      if (!(error instanceof SyntaxError)) throw unreachable(error);
    }
    throw ownError("unreadable", "The response is not the expected JSON", undefined, 200);
  }

  /** The response to a request, once it is known to be a good one. */
  async open(path: string, parts: RequestParts): Promise<Response> {
    let response = await this.#send(path, parts, await this.#token(false));
    if (response.status === 401) {
      const error = await errorOf(response);
      const token = await this.#token(true, error);
      response = await this.#send(path, parts, token);
    }
    if (response.ok) {
      const ahead = Date.parse(response.headers.get("date") ?? "") - Date.now();
      if (!Number.isNaN(ahead)) this.#ahead = Math.abs(ahead) < CLOCK_TOLERANCE_MS ? 0 : ahead;
      this.session.set(false);
      return response;
    }
    const error = await errorOf(response);
    throw error.code === "unauthenticated" ? this.#expire(error) : error;
  }

  async #send(path: string, parts: RequestParts, token: string): Promise<Response> {
    const url = new URL(`api/v1/connectors${path}`, this.base);
    for (const [name, value] of Object.entries(parts.query ?? {})) {
      if (value !== undefined && value !== null) url.searchParams.set(name, String(value));
    }
    const headers: Record<string, string> = {
      accept: "application/json",
      ...parts.headers,
      authorization: `Bearer ${token}`,
    };
    const credentials = this.#options.credentials ?? "same-origin";
    const init: RequestInit = { method: parts.method ?? "GET", headers, credentials, cache: "no-store" };
    if (parts.body !== undefined) {
      headers["content-type"] = "application/json";
      init.body = JSON.stringify(parts.body);
    }
    if (parts.signal) init.signal = parts.signal;
    try {
      return await (this.#options.fetch ?? fetch)(url, init);
    } catch (error) {
      if (parts.signal?.aborted) throw error;
      throw unreachable(error);
    }
  }

  /** Compares the signed-in user with the one that this client serves. The next request reports any other error. */
  async compareUser(): Promise<void> {
    await this.#token(false).catch(() => undefined);
  }

  /** The token; after one was refused, a fresh one. A gateway's 401 (`unreadable`) says nothing of the session. */
  async #token(fresh: boolean, refused?: PatchbayError): Promise<string> {
    let token: string | null | undefined;
    try {
      token = await withTimeout(this.#options.getToken({ fresh }), TOKEN_TIMEOUT_MS, "getToken takes too long");
    } catch (cause) {
      const detail = cause instanceof Error ? cause.message : "There is no token";
      throw ownError("token_unavailable", detail, cause);
    }
    if (!token) throw refused?.code === "unreadable" ? refused : this.#expire(refused);
    if (!this.session.admits(token)) {
      throw ownError("user_changed", "The token is another user's");
    }
    return token;
  }

  #expire(refused: PatchbayError | undefined): PatchbayError {
    this.session.set(true);
    const detail = refused?.detail ?? "Nobody is signed in";
    const { status = 0, requestId } = refused ?? {};
    return new PatchbayError({ status, code: "session_expired", title: detail, detail, requestId, cause: refused });
  }
}

function unreachable(cause: unknown): PatchbayError {
  return ownError("network", "The server could not be reached", cause);
}
