import type { Faults } from "./controls.js";

/** A fault that can be switched on: what it does, and what it shows. */
export interface Fault {
  name: string;
  shows: string;
  on: Partial<Faults>;
  off: Partial<Faults>;
}

export const FAULTS: Fault[] = [
  {
    name: "Webhooks get lost",
    shows: "The webhook never arrives. The account still shows as connected in a moment, because the service polls Nango.",
    on: { drop_webhooks: true },
    off: { drop_webhooks: false },
  },
  {
    name: "Webhooks come twice",
    shows: "The webhook arrives twice, and the history has one line.",
    on: { duplicate_webhooks: true },
    off: { duplicate_webhooks: false },
  },
  {
    name: "Webhooks come late",
    shows: "Five seconds late. Polling finds the connection first, and the webhook changes nothing.",
    on: { delay_webhooks_ms: 5_000 },
    off: { delay_webhooks_ms: 0 },
  },
  {
    name: "Nango is down",
    shows: "Connecting fails with a reason. Connected accounts stay connected, and a disconnect is finished later.",
    on: { status: 503 },
    off: { status: null },
  },
  {
    name: "Nango limits the rate",
    shows: "Nango’s rate limit is used up. Connecting fails and says so; the service tries its own calls again.",
    on: { status: 429 },
    off: { status: null },
  },
  {
    name: "Nango is slow",
    shows: "Each response takes two seconds. The window still opens at once, and waits.",
    on: { latency_ms: 2_000 },
    off: { latency_ms: 0 },
  },
  {
    name: "Responses get lost",
    shows: "Nango handles each request, and the response never arrives. Nothing is done twice.",
    on: { lose_answer: true },
    off: { lose_answer: false },
  },
  {
    name: "Sessions have expired",
    shows: "The window opens too late to sign in. The attempt ends as “Expired” within half a minute.",
    on: { expired_sessions: true },
    off: { expired_sessions: false },
  },
  {
    name: "The provider fails after consent",
    shows: "After “Allow” the authorization ends as “Failed”, not as “Denied”. API keys are not affected: they need no consent.",
    on: { refuse_code: true },
    off: { refuse_code: false },
  },
  {
    name: "Access cannot be renewed",
    shows: "The provider refuses to refresh. “Check now” on a connection first says “Having trouble”. API keys are not renewed and stay connected.",
    on: { refuse_refresh: true },
    off: { refuse_refresh: false },
  },
  {
    name: "Deleting fails",
    shows: "A disconnect takes effect at once. The deletion at Nango is retried until Nango confirms it.",
    on: { refuse_delete: true },
    off: { refuse_delete: false },
  },
];

/** Every fault off, and the consent page asks. */
export const NO_FAULTS: Partial<Faults> = Object.assign({ consent: "ask" }, ...FAULTS.map((fault) => fault.off));

export function isOn(fault: Fault, faults: Faults): boolean {
  return Object.entries(fault.on).every(([name, value]) => faults[name as keyof Faults] === value);
}

/** The names of what is in force. */
export function inForce(faults: Faults): string[] {
  const names = FAULTS.filter((fault) => isOn(fault, faults)).map((fault) => fault.name);
  if (faults.consent === "allow") names.push("Consent is given at once");
  if (faults.consent === "deny") names.push("Consent is denied at once");
  return names;
}
