import { PatchbayError, errorOf } from "./error.js";
import { Session } from "./session.js";

/** Where Patchbay is, and whose requests these are. */
export interface ClientOptions {
  /** Patchbay's address, such as `https://connect.example.com`; empty for the page's own origin. */
  baseUrl: string;
  /**
   * Yields the user's token, as the identity provider gives it out; null if nobody is signed in. It is asked before
   * every request, so it should answer from memory; with `fresh` after a token was refused: get a new one then.
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

/** Authorized requests. A refused token is replaced once by a fresh one; then the session counts as expired. */
export class Http {
  readonly session = new Session();
  readonly #options: ClientOptions;

  constructor(options: ClientOptions) {
    this.#options = options;
  }

  /** Patchbay's address. Looked up when it is needed: where a page is rendered on a server there is no location. */
  get base(): URL {
    const here = typeof location === "undefined" ? undefined : location.origin;
    return new URL(this.#options.baseUrl.replace(/\/*$/, "/"), here);
  }

  /** The JSON that an endpoint answers. `path` is below `/api/v1/connectors`. */
  async json<T>(path: string, parts: RequestParts = {}): Promise<T> {
    const limit = new AbortController();
    const stop = () => limit.abort(parts.signal?.reason);
    if (parts.signal?.aborted) stop();
    parts.signal?.addEventListener("abort", stop);
    const timer = setTimeout(() => limit.abort(), TIMEOUT_MS);
    try {
      const response = await this.open(path, { ...parts, signal: limit.signal });
      return (await response.json()) as T;
    } catch (error) {
      // A caller who gives up is told so as fetch would; everything else is ours to put into words.
      if (parts.signal?.aborted || error instanceof PatchbayError) throw error;
      throw error instanceof SyntaxError ? unreadable(error) : unreachable(error);
    } finally {
      clearTimeout(timer);
      parts.signal?.removeEventListener("abort", stop);
    }
  }

  /** The answer to a request, once it is known to be a good one. */
  async open(path: string, parts: RequestParts): Promise<Response> {
    let response = await this.#send(path, parts, false);
    if (response.status === 401) {
      await response.body?.cancel();
      response = await this.#send(path, parts, true);
    }
    if (response.status === 401) {
      const refused = await errorOf(response);
      throw this.#expire(refused);
    }
    this.session.set(false);
    if (!response.ok) throw await errorOf(response);
    return response;
  }

  async #send(path: string, parts: RequestParts, fresh: boolean): Promise<Response> {
    const token = await this.#token(fresh);
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

  /** Compares the signed-in user with the one that this client serves. What else is wrong shows in the next request. */
  async compareUser(): Promise<void> {
    await this.#token(false).catch(() => undefined);
  }

  async #token(fresh: boolean): Promise<string> {
    let token: string | null | undefined;
    try {
      token = await this.#options.getToken({ fresh });
    } catch (cause) {
      throw new PatchbayError({
        status: 0,
        code: "token_unavailable",
        title: "There is no token at the moment",
        detail: cause instanceof Error ? cause.message : "The user's token could not be had",
        cause,
      });
    }
    if (!token) throw this.#expire(undefined);
    if (!this.session.admits(token)) {
      throw new PatchbayError({
        status: 0,
        code: "user_changed",
        title: "Another user has signed in",
        detail: "The token is another user's than the one before. Create a client for this user.",
      });
    }
    return token;
  }

  #expire(refused: PatchbayError | undefined): PatchbayError {
    this.session.set(true);
    return new PatchbayError({
      status: refused?.status ?? 0,
      code: "session_expired",
      title: "The session has expired",
      detail: refused?.detail ?? "Nobody is signed in",
      requestId: refused?.requestId,
      cause: refused,
    });
  }
}

function unreadable(cause: unknown): PatchbayError {
  return new PatchbayError({
    status: 200,
    code: "unreadable",
    title: "The answer is not Patchbay's",
    detail: "The server's answer is not JSON",
    cause,
  });
}

function unreachable(cause: unknown): PatchbayError {
  return new PatchbayError({
    status: 0,
    code: "network",
    title: "No answer",
    detail: "The server could not be reached",
    cause,
  });
}
