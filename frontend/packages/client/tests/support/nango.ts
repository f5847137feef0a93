/** The fake Nango and a user's actions there. */
import { inject } from "vitest";

/** The sandbox's faults; an omitted fault is off. */
export interface Faults {
  consent?: "ask" | "allow" | "deny";
  only?: string;
  status?: number;
  hang_up?: boolean;
  drop_webhooks?: boolean;
  refuse_refresh?: boolean;
  withheld_scopes?: string[];
}

/** Replaces all faults. */
export async function faults(wanted: Faults): Promise<void> {
  await call("PUT", "/sandbox/faults", wanted);
}

/** A token for a user of the product. */
export async function tokenFor(user: string): Promise<string> {
  const { token } = (await call("POST", "/sandbox/token", { user })) as { token: string };
  return token;
}

let users = 0;

/** A user whom no other test knows. */
export function newUser(): string {
  users += 1;
  return `user-${process.pid}-${Date.now()}-${users}`;
}

/** Does at the provider what the user does there. */
export async function consent(url: string, decision: "allow" | "deny"): Promise<void> {
  await faults({ ...(await current()), consent: decision });
  await fetch(url, { headers: { accept: "text/html" } });
  await faults({ ...(await current()), consent: "ask" });
}

async function current(): Promise<Faults> {
  return (await (await fetch(`${inject("nango")}/sandbox/faults`)).json()) as Faults;
}

async function call(method: string, path: string, body: unknown): Promise<unknown> {
  const headers = { "content-type": "application/json" };
  const answer = await fetch(`${inject("nango")}${path}`, { method, headers, body: JSON.stringify(body) });
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}
