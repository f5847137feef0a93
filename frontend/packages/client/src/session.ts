import { Listeners } from "./listeners.js";

/** Whether the last responses accepted the user's token, and the user of that token. */
export class Session {
  #expired = false;
  #user: string | undefined;
  #userChanged = false;
  #identify!: (user: string) => void;
  readonly #listeners = new Listeners();
  /** Resolves to `user` with the first token. */
  readonly identified = new Promise<string>((resolve) => (this.#identify = resolve));

  /** `true` if a fresh token was refused, there was none, or the token is another user's. */
  get expired(): boolean {
    return this.#expired || this.#userChanged;
  }

  /** `true` if `getToken` has returned another user's token: a client serves one user, so this one is of no use any more. */
  get userChanged(): boolean {
    return this.#userChanged;
  }

  /** The user of the first token; empty if that is not a JWT, undefined before it. */
  get user(): string | undefined {
    return this.#user;
  }

  /** Stores the outcome of the last request. */
  set(expired: boolean): void {
    if (this.#expired === expired) return;
    this.#expired = expired;
    this.#listeners.call();
  }

  /** Compares a token's user with the first token's. Returns whether they are the same. */
  admits(token: string): boolean {
    const subject = subjectOf(token);
    this.#user ||= subject ?? "";
    this.#identify(this.#user);
    // The service rejects a token without a subject.
    if (subject !== null && this.#user !== subject && !this.#userChanged) {
      this.#userChanged = true;
      this.#listeners.call();
    }
    return !this.#userChanged;
  }

  /** Calls `listener` at every change; the returned function ends that. */
  subscribe(listener: () => void): () => void {
    return this.#listeners.listen(listener);
  }
}

/** The subject of a JWT, unverified and only to be compared: it is not decoded. Null for any other token. */
function subjectOf(token: string): string | null {
  try {
    const payload = (token.split(".")[1] ?? "").replaceAll("-", "+").replaceAll("_", "/");
    const { sub } = JSON.parse(atob(payload)) as { sub?: unknown };
    return typeof sub === "string" ? sub : null;
  } catch {
    return null;
  }
}
