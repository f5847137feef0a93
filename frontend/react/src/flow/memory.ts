/**
 * What a flow leaves in the tab's sessionStorage, so that after a reload it is still under way.
 *
 * Not the address to authorize at: it has a session's token in it, with which whoever reads the storage could attach an
 * account of theirs to this user. The idempotency key is kept instead: together with the user's own token, which is
 * never kept, it brings the same address again.
 */
export interface Remembered {
  connectionId: string;
  attemptId: string | null;
  expiresAt: string | null;
  idempotencyKey: string;
}

/** How long after its time a forgotten attempt is still told of, in milliseconds. */
const STALE = 10 * 60_000;

/** One flow's place in the tab's storage. Where there is none, nothing is remembered. */
export class FlowMemory {
  readonly #key: string;

  constructor(key: string) {
    this.#key = `patchbay:flow:${key}`;
  }

  read(): Remembered | null {
    try {
      const found = JSON.parse(sessionStorage.getItem(this.#key) ?? "null") as Partial<Remembered> | null;
      if (typeof found?.connectionId !== "string" || typeof found.idempotencyKey !== "string") return null;
      if (found.expiresAt && Date.parse(found.expiresAt) + STALE < Date.now()) return null;
      return { attemptId: null, expiresAt: null, ...found } as Remembered;
    } catch {
      return null;
    }
  }

  write(remembered: Remembered): void {
    try {
      sessionStorage.setItem(this.#key, JSON.stringify(remembered));
    } catch {
      // Switched off or full: a reload then shows what the service says, without the offer to go on.
    }
  }

  clear(): void {
    try {
      sessionStorage.removeItem(this.#key);
    } catch {
      // As above.
    }
  }
}
