import type { Config } from "./config.js";

/** A user, with the name to display. */
export interface Person {
  id: string;
  name: string;
}

export const PEOPLE: Person[] = [
  { id: "ada", name: "Ada Lovelace" },
  { id: "grace", name: "Grace Hopper" },
  { id: "alan", name: "Alan Turing" },
];

type GetToken = (options: { fresh: boolean }) => Promise<string | null>;

/** What the tab remembers; where there is no storage, as long as the page lasts. */
const memory = new Map<string, string>();

export function remember(name: string, value: string | null): void {
  const key = `patchbay:console:${name}`;
  if (value === null) memory.delete(key);
  else memory.set(key, value);
  try {
    if (value === null) sessionStorage.removeItem(key);
    else sessionStorage.setItem(key, value);
  } catch {
    // The map has it.
  }
}

export function remembered(name: string): string | null {
  const key = `patchbay:console:${name}`;
  try {
    return sessionStorage.getItem(key) ?? memory.get(key) ?? null;
  } catch {
    return memory.get(key) ?? null;
  }
}

/** Tokens of a fake user. The sandbox signs them without authentication. */
export function sandboxTokens(controls: string, user: string): GetToken {
  let held: Promise<string> | undefined;
  const sign = async () => {
    const response = await fetch(`${controls}/sandbox/token`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ user }),
    });
    if (!response.ok) throw new Error(`The sandbox gave no token: ${response.status}`);
    return ((await response.json()) as { token: string }).token;
  };
  return ({ fresh }) => {
    if (fresh || !held) {
      held = sign();
      // A failure is not kept: the next request asks again.
      held.catch(() => (held = undefined));
    }
    return held;
  };
}

/** How long a request for a token waits for the product's window, in milliseconds. */
const ANSWER_TIMEOUT = 10_000;

/** How often the product's window is asked again meanwhile: it may be loading, in milliseconds. */
const ASK_INTERVAL = 2_000;

/**
 * Tokens that the product's own window hands over: the one that opened the console, if it is of an allowed origin.
 * The console sends `{type: "patchbay:token-wanted", fresh}`, and the window answers `{type: "patchbay:token", token}`.
 */
export class OpenerTokens {
  readonly #opener: Window;
  readonly #origins: string[];
  readonly #listeners = new Set<(token: string) => void>();
  #token: string | null = null;

  constructor(opener: Window, { origins }: Config) {
    this.#opener = opener;
    this.#origins = origins;
    // For as long as the page lives: an answer that comes late counts, too.
    window.addEventListener("message", (event: MessageEvent<unknown>) => {
      if (event.source !== opener || !origins.includes(event.origin)) return;
      const { type, token } = (event.data ?? {}) as { type?: unknown; token?: unknown };
      if (type !== "patchbay:token" || typeof token !== "string") return;
      this.#token = token;
      for (const listener of [...this.#listeners]) listener(token);
    });
  }

  /** Calls `listener` with each token that is handed over; the returned function ends that. */
  subscribe(listener: (token: string) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** The token; with `fresh`, a new one. Rejects if the window does not answer in time, or is gone. */
  readonly get = ({ fresh }: { fresh: boolean }): Promise<string> => {
    if (this.#token !== null && !fresh) return Promise.resolve(this.#token);
    return new Promise((resolve, reject) => {
      const end = (settle: () => void) => {
        clearInterval(repeat);
        clearTimeout(timer);
        leave();
        settle();
      };
      const refuse = () => end(() => reject(new Error("Your product did not answer.")));
      const ask = () => {
        if (this.#opener.closed) return refuse();
        for (const origin of this.#origins) this.#opener.postMessage({ type: "patchbay:token-wanted", fresh }, origin);
      };
      const leave = this.subscribe((token) => end(() => resolve(token)));
      const repeat = setInterval(ask, ASK_INTERVAL);
      const timer = setTimeout(refuse, this.#origins.length > 0 ? ANSWER_TIMEOUT : 0);
      ask();
    });
  };
}

/** Returns the unverified subject of a token, for display only. */
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

export type { GetToken };
