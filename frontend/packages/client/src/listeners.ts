/** Functions to call when something happens. */
export class Listeners<T = void> extends Set<(value: T) => void> {
  /** Adds a listener; the returned function removes it. */
  listen(listener: (value: T) => void): () => void {
    this.add(listener);
    return () => this.delete(listener);
  }

  /** Calls each listener that is there now. */
  call(value: T): void {
    for (const listener of [...this]) listener(value);
  }
}
