import { keyOf, type FlowTarget } from "./state.js";

/**
 * What a flow leaves in the tab's sessionStorage, so that it continues after a reload.
 *
 * The address to authorize at is not kept: it contains a session's token, with which a reader of the storage could attach
 * an account of theirs to this user. The idempotency key is kept instead: together with the user's own token, which is
 * never kept, it brings the same address again.
 */
export interface Remembered {
  target: FlowTarget;
  idempotencyKey: string;
  /** Null until the service has answered. */
  connectionId: string | null;
  attemptId: string | null;
  expiresAt: string | null;
}

/** The flows of one user of one service, in the tab's storage. Without storage, nothing is remembered. */
export class FlowMemory {
  readonly #prefix: string;

  constructor(base: string, user: string) {
    this.#prefix = `patchbay:flow:${base} ${user}:`;
  }

  read(target: FlowTarget): Remembered | null {
    return stored((storage) => parsed(storage.getItem(this.#prefix + keyOf(target))));
  }

  /** Null forgets it. */
  write(target: FlowTarget, remembered: Remembered | null): void {
    const key = this.#prefix + keyOf(target);
    stored((storage) => (remembered ? storage.setItem(key, JSON.stringify(remembered)) : storage.removeItem(key)));
  }

  /** The targets of all flows in progress. */
  targets(): FlowTarget[] {
    const found = stored((storage) => {
      const keys = Object.keys(storage).filter((key) => key.startsWith(this.#prefix));
      return keys.map((key) => parsed(storage.getItem(key))?.target).filter((target) => target !== undefined);
    });
    return found ?? [];
  }
}

function parsed(text: string | null): Remembered | null {
  const found = JSON.parse(text ?? "null") as Remembered | null;
  return typeof found?.idempotencyKey === "string" && typeof found.target === "object" ? found : null;
}

/** Switched off, full or written by others: a reload then shows what the service says, without the offer to continue. */
function stored<T>(use: (storage: Storage) => T): T | null {
  try {
    return use(sessionStorage);
  } catch {
    return null;
  }
}
