import { defaultMessages } from "@patchbay/react";
import { BASE } from "./base.js";

/** What the service tells the console at its start. */
export interface Config {
  /** Where there are users to try it as and faults to try; null everywhere but in the sandbox. */
  controls: string | null;
  /** The product's own origins: a window of theirs that opens the console may hand over its user's token. */
  origins: string[];
}

/** How long the service may take, in milliseconds. */
const TIMEOUT = 15_000;

/** The console's configuration. Rejects with a text for the user. */
export async function loadConfig(): Promise<Config> {
  const { network, unreadable } = defaultMessages.errors;
  const response = await fetch(`${BASE}config.json`, { signal: AbortSignal.timeout(TIMEOUT) }).catch(() => {
    throw new Error(network);
  });
  const config: unknown = response.ok ? await response.json().catch(() => null) : null;
  if (!isConfig(config)) throw new Error(unreadable);
  return config;
}

/** A proxy may answer in the service's place. */
function isConfig(value: unknown): value is Config {
  const { controls, origins } = (value ?? {}) as Partial<Config>;
  return (controls === null || typeof controls === "string") && Array.isArray(origins);
}
