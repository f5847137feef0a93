import { BASE } from "./base.js";

/** What the service tells the console at its start. */
export interface Config {
  /** Where there are users to try it as and faults to try; null everywhere but in the sandbox. */
  controls: string | null;
  /** The product's own origins: a window of theirs that opens the console may hand over its user's token. */
  origins: string[];
}

export async function loadConfig(): Promise<Config> {
  const response = await fetch(`${BASE}config.json`);
  if (!response.ok) throw new Error(`The service answered ${response.status}.`);
  return (await response.json()) as Config;
}
