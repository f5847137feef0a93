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
    shows: "Nango’s word never arrives. It still shows as connected in a moment, because the service looks for itself.",
    on: { drop_webhooks: true },
    off: { drop_webhooks: false },
  },
  {
    name: "Webhooks come twice",
    shows: "Told twice, connected once: the history has one line.",
    on: { duplicate_webhooks: true },
    off: { duplicate_webhooks: false },
  },
  {
    name: "Webhooks come late",
    shows: "Five seconds late. The look at Nango is there first, and the webhook changes nothing.",
    on: { delay_webhooks_ms: 5_000 },
    off: { delay_webhooks_ms: 0 },
  },
  {
    name: "Nango is down",
    shows: "Connecting is refused with a reason. What is connected stays so, and a disconnect is finished later.",
    on: { status: 503 },
    off: { status: null },
  },
  {
    name: "Nango asks for a pause",
    shows: "Its rate limit is used up: told as that, and tried again by the service.",
    on: { status: 429 },
    off: { status: null },
  },
  {
    name: "Nango is slow",
    shows: "Each answer takes two seconds. The window opens at once all the same, and waits.",
    on: { latency_ms: 2_000 },
    off: { latency_ms: 0 },
  },
  {
    name: "Answers get lost",
    shows: "Nango does what it is asked, and the answer never arrives. Nothing is done twice.",
    on: { lose_answer: true },
    off: { lose_answer: false },
  },
  {
    name: "Sessions have run out",
    shows: "The window opens too late to sign in, and the attempt ends as expired, within half a minute.",
    on: { expired_sessions: true },
    off: { expired_sessions: false },
  },
  {
    name: "The provider breaks off",
    shows: "After “Allow” the authorization fails: told as failed, not as denied.",
    on: { refuse_code: true },
    off: { refuse_code: false },
  },
  {
    name: "Access cannot be renewed",
    shows: "The provider refuses to refresh. “Check now” on a connection tells of trouble before it calls it dead.",
    on: { refuse_refresh: true },
    off: { refuse_refresh: false },
  },
  {
    name: "Deleting fails",
    shows: "A disconnect is final here at once, and Nango is asked to delete its part until it confirms.",
    on: { refuse_delete: true },
    off: { refuse_delete: false },
  },
];

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
