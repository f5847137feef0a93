/** Whether the user's token is accepted, as far as the last responses tell, and whose it is. */
export class Session {
  #expired = false;
  #subject: string | null = null;
  #userChanged = false;
  readonly #listeners = new Set<() => void>();

  /** `true` if a fresh token was refused, there was none, or the token is another user's. */
  get expired(): boolean {
    return this.#expired || this.#userChanged;
  }

  /** `true` if `getToken` has returned another user's token: a client serves one user, so this one is of no use any more. */
  get userChanged(): boolean {
    return this.#userChanged;
  }

  /** Notes how the last request went. */
  set(expired: boolean): void {
    if (this.#expired === expired) return;
    this.#expired = expired;
    this.#notify();
  }

  /** Compares a token's user with the first token's. Returns whether they are the same. */
  admits(token: string): boolean {
    const subject = subjectOf(token);
    this.#subject ??= subject;
    // A token that names nobody is for the service to refuse.
    if (subject !== null && this.#subject !== subject && !this.#userChanged) {
      this.#userChanged = true;
      this.#notify();
    }
    return !this.#userChanged;
  }

  /** Calls `listener` at every change; the returned function ends that. */
  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #notify(): void {
    for (const listener of [...this.#listeners]) listener();
  }
}

/** The user that a JWT names, unverified; null for any other token. */
export function subjectOf(token: string): string | null {
  try {
    const payload = (token.split(".")[1] ?? "").replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(payload), (char) => char.charCodeAt(0));
    const { sub } = JSON.parse(new TextDecoder().decode(bytes)) as { sub?: unknown };
    return typeof sub === "string" ? sub : null;
  } catch {
    return null;
  }
}
