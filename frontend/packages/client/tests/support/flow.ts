import { expect, onTestFinished, vi } from "vitest";
import { connectFlow, createClient, type Client, type ConnectFlow, type FlowState } from "../../src/index.js";
import { newUser, tokenFor } from "./nango.js";
import { Proxy } from "./proxy.js";

/** A user's browser tab: a client of its own, behind a proxy of its own. */
export async function tab(user = newUser()) {
  const proxy = await Proxy.start();
  const token = await tokenFor(user);
  const client = createClient({ baseUrl: proxy.url, getToken: () => token });
  const leave = client.events(() => {});
  onTestFinished(leave);
  return { user, proxy, client, leave };
}

/** A state with a connection. */
export type Ended = Extract<FlowState, { connection: unknown }>;

export function until(flow: ConnectFlow, phase: FlowState["phase"]): Promise<FlowState> {
  return vi.waitFor(
    () => {
      expect(flow.state.phase).toBe(phase);
      return flow.state;
    },
    { timeout: 20_000, interval: 10 },
  );
}

export async function waiting(flow: ConnectFlow): Promise<Extract<FlowState, { phase: "waiting" }>> {
  return (await until(flow, "waiting")) as Extract<FlowState, { phase: "waiting" }>;
}

/** A flow that ends with its test. */
export function flowOf(...[client, target, options]: Parameters<typeof connectFlow>): ConnectFlow {
  const flow = connectFlow(client, target, options);
  onTestFinished(() => flow.dispose());
  return flow;
}

/** Starts a flow for Gmail, and waits until its window shows the provider. */
export async function startedFlow(client: Client, onConnected?: () => void) {
  const flow = flowOf(client, { connectorId: "gmail" }, { onConnected });
  flow.start();
  const { attempt } = await waiting(flow);
  return { flow, attempt };
}

/** The user is back at this page. */
export function seen(): void {
  document.dispatchEvent(new Event("visibilitychange"));
}
