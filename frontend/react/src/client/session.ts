/** Whether the user's token is good, as far as the last answers tell. */
export class Session {
  #expired = false;
  readonly #listeners = new Set<() => void>();

  /** Whether a fresh token was refused, or there was none. */
  get expired(): boolean {
    return this.#expired;
  }

  /** Says how the last request went. */
  set(expired: boolean): void {
    if (this.#expired === expired) return;
    this.#expired = expired;
    for (const listener of [...this.#listeners]) listener();
  }

  /** Calls `listener` at every change; the answer ends that. */
  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}
