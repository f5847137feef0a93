import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { createContext, useContext, useState } from "react";

/** The address of the sandbox's controls; null outside of the sandbox. */
export const ControlsContext = createContext<string | null>(null);

/** The sandbox's faults, with its field names. */
export interface Faults {
  consent: "ask" | "allow" | "deny";
  status: number | null;
  latency_ms: number;
  lose_answer: boolean;
  drop_webhooks: boolean;
  duplicate_webhooks: boolean;
  delay_webhooks_ms: number;
  expired_sessions: boolean;
  refuse_code: boolean;
  refuse_refresh: boolean;
  refuse_delete: boolean;
}

/** A line of what Nango received or sent. */
export type LogLine =
  | { at: string; kind: "received"; call: { method: string; path: string; query: string; status: number | null } }
  | { at: string; kind: "sent"; webhook: { url: string; body: Webhook; attempts: { status?: number; error?: string }[] } };

interface Webhook {
  operation: string;
  success: boolean;
  providerConfigKey: string;
}

async function call<T>(url: string, method = "GET", body?: unknown): Promise<T> {
  const init: RequestInit = { method };
  if (body !== undefined) {
    init.headers = { "content-type": "application/json" };
    init.body = JSON.stringify(body);
  }
  const response = await fetch(url, init);
  if (!response.ok) throw new Error(`The sandbox answered ${response.status}.`);
  return (response.status === 204 ? undefined : await response.json()) as T;
}

const FAULTS = ["sandbox", "faults"];

/** Plays these faults from now on, and no others. */
export async function setFaults(controls: string, faults: Partial<Faults>): Promise<void> {
  await call(`${controls}/sandbox/faults`, "PUT", faults);
}

/** How often to ask the sandbox: ever more seldom while it does not answer. */
function every(milliseconds: number) {
  return ({ state }: { state: { fetchFailureCount: number } }) => Math.min(60_000, milliseconds * 2 ** state.fetchFailureCount);
}

/** The faults in force, and a way to change some of them. */
export function useFaults() {
  const controls = useContext(ControlsContext);
  const queries = useQueryClient();
  const url = `${controls}/sandbox/faults`;
  const { data } = useQuery({ queryKey: FAULTS, queryFn: () => call<Faults>(url), refetchInterval: every(5_000), retry: false });
  const { mutate, error } = useMutation({
    mutationFn: (faults: Faults) => call<Faults>(url, "PUT", faults),
    onSuccess: (faults) => queries.setQueryData(FAULTS, faults),
  });
  // Shown at once; what the sandbox says counts as soon as it has answered the last change.
  const [wanted, setWanted] = useState<Faults | null>(null);
  const faults = wanted ?? data;
  const change = (some: Partial<Faults>) => {
    if (!faults) return;
    const next = { ...faults, ...some };
    setWanted(next);
    mutate(next, { onSettled: () => setWanted(null) });
  };
  const refetch = () => queries.invalidateQueries({ queryKey: FAULTS });
  return { faults, change, error, refetch };
}

/** What Nango received and sent, the newest first, as it happens. */
export function useLog() {
  const controls = useContext(ControlsContext);
  return useQuery({
    queryKey: ["sandbox", "log"],
    queryFn: () => call<LogLine[]>(`${controls}/sandbox/log`),
    refetchInterval: every(1_000),
    retry: false,
  });
}

/** Lets time or the account's owner take its course with a connection, named by Nango's id. */
export function age(controls: string, how: "expire" | "revoke", nangoId: string): Promise<void> {
  return call(`${controls}/sandbox/${how}`, "POST", { connection_id: nangoId });
}
