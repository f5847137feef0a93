import type { Config } from "./config.js";

/** Somebody to try the sandbox as. */
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

/** Tokens of a made-up user, signed by the sandbox for whoever asks. */
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

/** How long the product's window may take to answer, in milliseconds. */
const PATIENCE = 10_000;

/**
 * Tokens that the product's own window hands over: the one that opened the console, if it is of an allowed origin.
 * It is asked by `{type: "patchbay:token-wanted", fresh}`, and answers `{type: "patchbay:token", token}`.
 */
export function openersTokens(opener: Window, { origins }: Config): GetToken {
  let held: string | null = null;
  return async ({ fresh }) => {
    if (fresh || held === null) held = await ask(opener, origins, fresh);
    return held;
  };
}

function ask(opener: Window, origins: string[], fresh: boolean): Promise<string | null> {
  if (origins.length === 0) return Promise.resolve(null);
  return new Promise((resolve) => {
    const end = (token: string | null) => {
      clearTimeout(timer);
      window.removeEventListener("message", heard);
      resolve(token);
    };
    const heard = (event: MessageEvent<unknown>) => {
      if (event.source !== opener || !origins.includes(event.origin)) return;
      const said = event.data as { type?: unknown; token?: unknown } | null;
      if (said?.type === "patchbay:token" && typeof said.token === "string") end(said.token);
    };
    const timer = setTimeout(() => end(null), PATIENCE);
    window.addEventListener("message", heard);
    for (const origin of origins) opener.postMessage({ type: "patchbay:token-wanted", fresh }, origin);
  });
}

/** Who a token says it is for; to be shown, not to be believed. */
export function subjectOf(token: string): string | null {
  try {
    const payload = token.split(".")[1] ?? "";
    const text = atob(payload.replaceAll("-", "+").replaceAll("_", "/"));
    const claims = JSON.parse(text) as { sub?: unknown };
    return typeof claims.sub === "string" ? claims.sub : null;
  } catch {
    return null;
  }
}

export type { GetToken };
