import { describe, expect, test, vi } from "vitest";
import { createClient } from "../src/index.js";
import { browser } from "./support/browser.js";
import { startedFlow, type Ended, flowOf, seen, tab, until, waiting } from "./support/flow.js";

describe("after a reload", () => {
  test("resumes without a stored secret and can reopen the same URL", async () => {
    const { client } = await tab();
    const { flow, attempt } = await startedFlow(client);
    flow.dispose();
    const kept = JSON.stringify({ ...sessionStorage });
    expect(kept).toContain(attempt.attemptId);
    const secret = new URL(attempt.oauthUrl ?? "").searchParams.get("connect_session_token") ?? "?";
    expect(kept).not.toContain(secret);

    const after = flowOf(client, { connectorId: "gmail" });
    after.resume();
    expect(await waiting(after)).toMatchObject({ window: "unknown", attempt: { oauthUrl: null } });
    after.reopen();
    await waiting(after);
    expect(browser.popup.url).toBe(attempt.oauthUrl);
    await browser.popup.decide("allow");
    await until(after, "connected");
  });

  test("detects a grant made meanwhile", async () => {
    const { client } = await tab();
    const { flow } = await startedFlow(client);
    flow.dispose();
    await browser.popup.decide("allow");
    const onConnected = vi.fn();
    const after = flowOf(client, { connectorId: "gmail" }, { onConnected });
    after.resume();
    await until(after, "connected");
    expect(onConnected).toHaveBeenCalledTimes(1);
  });

  test("another_user_never_sees_it", async () => {
    const { client } = await tab();
    const { flow } = await startedFlow(client);
    flow.dispose();
    const bob = await tab();
    const his = flowOf(bob.client, { connectorId: "gmail" });
    const phases: string[] = [];
    his.subscribe(() => phases.push(his.state.phase));
    his.resume();
    await bob.client.user();
    await bob.client.listConnections();
    expect([his.state.phase, phases]).toEqual(["idle", []]);
    his.start();
    await waiting(his);
    // Each has their own: the first one's is still there when they are back.
    const hers = flowOf(client, { connectorId: "gmail" });
    hers.resume();
    expect(await waiting(hers)).toMatchObject({ attempt: { oauthUrl: null } });
    expect(sessionStorage).toHaveLength(2);
  });

  test("wrong_clock_of_the_browser_forgets_nothing", async () => {
    for (const hours of [1, -1]) {
      const { client } = await tab();
      const { flow, attempt } = await startedFlow(client);
      flow.dispose();
      vi.setSystemTime(Date.now() + hours * 3_600_000);
      try {
        const after = flowOf(client, { connectorId: "gmail" });
        after.resume();
        await waiting(after);
        // In time by the service's clock: it is the same attempt.
        await client.listConnections();
        after.reopen();
        await vi.waitFor(() => expect(browser.popup.visited).toHaveLength(1), 20_000);
        expect(browser.popup.url).toBe(attempt.oauthUrl);
        after.dispose();
      } finally {
        vi.useRealTimers();
      }
    }
  });

  test("window_is_not_said_to_be_closed_after_a_remount", async () => {
    const { client, proxy } = await tab();
    await client.listConnections();
    proxy.fate = ({ method }) => (method === "POST" ? { late: 1_000 } : "pass");
    const flow = flowOf(client, { connectorId: "gmail" });
    flow.start();
    flow.dispose();
    const after = flowOf(client, { connectorId: "gmail" });
    after.resume();
    expect(await waiting(after)).toMatchObject({ window: "unknown" });
    await browser.popup.decide("allow");
    await until(after, "connected");
    expect(browser.popups).toHaveLength(1);
  });

  test("reload_before_the_answer_finds_the_same_attempt", async () => {
    const { client, proxy } = await tab();
    await client.listConnections();
    proxy.fate = ({ method }) => (method === "POST" ? { late: 2_000 } : "pass");
    const flow = flowOf(client, { connectorId: "gmail" });
    flow.start();
    expect(browser.popup.closed).toBe(false);
    window.dispatchEvent(new Event("pagehide"));
    expect(browser.popup.closed).toBe(true);
    flow.dispose();

    proxy.fate = () => "pass";
    const after = flowOf(client, { connectorId: "gmail" });
    after.resume();
    expect(await waiting(after)).toMatchObject({ window: "closed" });
    expect(browser.popups).toHaveLength(1);
    after.reopen();
    await browser.popup.decide("allow");
    const { connection } = (await until(after, "connected")) as Ended;
    const { events } = await client.history(connection.id);
    expect(events.filter(({ kind }) => kind === "attempt_started")).toHaveLength(1);
  });
});

describe("cancel", () => {
  test("late_grant_of_canceled_attempt_connects_nothing", async () => {
    const { client } = await tab();
    const { flow, attempt } = await startedFlow(client);
    flow.dismiss();
    expect(flow.state).toEqual({ phase: "idle", canceled: true });
    await vi.waitFor(async () => {
      expect((await client.getConnection(attempt.connectionId)).attempt?.outcome).toBe("canceled");
    }, 20_000);
    await browser.popup.decide("allow");
    expect((await client.listConnections()).connections).toEqual([]);
    expect(await client.getConnection(attempt.connectionId)).toMatchObject({ status: "disconnected" });
  });

  test("another_tab_shows_the_cancellation", async () => {
    const { client } = await tab();
    const { flow, attempt } = await startedFlow(client);
    await client.cancel(attempt.connectionId, { attemptId: attempt.attemptId });
    expect(await until(flow, "canceled")).toMatchObject({ connection: { status_reason: "removed" } });
  });

  test("start_that_is_canceled_before_its_answer_is_canceled_by_it", async () => {
    const { client, proxy } = await tab();
    proxy.fate = ({ method, path }) => (method === "POST" && path.endsWith("/connect") ? { late: 1_500 } : "pass");
    const flow = flowOf(client, { connectorId: "gmail" });
    flow.start();
    await vi.waitFor(() => expect(proxy.seen.some(({ path }) => path.endsWith("/connect"))).toBe(true), 20_000);
    flow.dismiss();
    await vi.waitFor(() => expect(proxy.seen.some(({ path }) => path.endsWith("/cancel"))).toBe(true), 20_000);
    await vi.waitFor(async () => expect((await client.listConnections()).connections).toEqual([]), 20_000);
  });

  test("cancellation_is_sent_again_while_the_service_is_away", async () => {
    const { client, proxy } = await tab();
    const { flow, attempt } = await startedFlow(client);
    let refused = 0;
    proxy.fate = ({ path }) => (path.endsWith("/cancel") && (refused += 1) < 3 ? 503 : "pass");
    flow.dismiss();
    await vi.waitFor(async () => {
      expect((await client.getConnection(attempt.connectionId)).attempt?.outcome).toBe("canceled");
    }, 20_000);
    expect(refused).toBe(3);
  });
});

describe("while it starts", () => {
  test("cancel_ends_the_wait", async () => {
    const { client, proxy } = await tab();
    proxy.fate = ({ method }) => (method === "POST" ? { late: 5_000 } : "pass");
    const flow = flowOf(client, { connectorId: "gmail" });
    flow.start();
    expect(flow.state).toEqual({ phase: "starting", window: "open" });
    flow.dismiss();
    expect(flow.state.phase).toBe("idle");
    expect(browser.popup.closed).toBe(true);
    expect(sessionStorage).toHaveLength(0);
  });

  test("closed_window_is_noticed_and_opened_again", async () => {
    const { client, proxy } = await tab();
    proxy.fate = ({ method }) => (method === "POST" ? { late: 2_000 } : "pass");
    const flow = flowOf(client, { connectorId: "gmail" });
    flow.start();
    browser.popup.closeItself();
    window.dispatchEvent(new Event("focus"));
    expect(flow.state).toEqual({ phase: "starting", window: "closed" });
    flow.reopen();
    expect(flow.state).toEqual({ phase: "starting", window: "open" });
    await waiting(flow);
    expect(browser.popups).toHaveLength(2);
    expect(browser.popup.visited).toHaveLength(1);
  });

  test("token_that_never_comes_is_said", async () => {
    const client = createClient({ baseUrl: "http://patchbay.test", getToken: () => new Promise<string>(() => {}) });
    const flow = flowOf(client, { connectorId: "gmail" });
    flow.start();
    expect(await until(flow, "refused")).toMatchObject({ error: { code: "token_unavailable" } });
    expect(browser.popup.closed).toBe(true);
  });
});

describe("two tabs", () => {
  test("mark the older attempt superseded and both see the grant", async () => {
    const first = await tab();
    const second = await tab(first.user);
    const { flow } = await startedFlow(first.client);
    const { flow: newer } = await startedFlow(second.client);
    await until(flow, "superseded");
    await browser.popup.decide("allow");
    await Promise.all([until(newer, "connected"), until(flow, "connected")]);
  });

  test("end the flow when the other tab disconnects", async () => {
    const first = await tab();
    const { flow } = await startedFlow(first.client);
    await first.client.disconnect("gmail");
    await until(flow, "disconnected");
  });
});

describe("reconnect", () => {
  test("keeps the connection usable whatever the outcome", async () => {
    const { client } = await tab();
    const { flow } = await startedFlow(client);
    await browser.popup.decide("allow");
    const { connection } = (await until(flow, "connected")) as Ended;
    const again = flowOf(client, { connectionId: connection.id });
    again.start();
    await waiting(again);
    await browser.popup.decide("deny");
    expect(await until(again, "denied")).toMatchObject({ connection: { id: connection.id, status: "connected" } });
    again.start();
    await waiting(again);
    await browser.popup.decide("allow");
    expect(await until(again, "connected")).toMatchObject({ connection: { id: connection.id } });
  });

  test("waits for the user's decision when the account differs", async () => {
    const { client } = await tab();
    const { flow } = await startedFlow(client);
    await browser.popup.decide("allow");
    const { connection } = (await until(flow, "connected")) as Ended;
    const again = flowOf(client, { connectionId: connection.id }, { details: { login_hint: "grace" } });
    again.start();
    await waiting(again);
    await browser.popup.decide("allow");
    const other = (await until(again, "account_mismatch")) as Ended;
    expect(other.connection).toMatchObject({ status: "error", pending_account: { name: "Grace Hopper" } });
    await client.acceptAccount(connection.id, other.connection.pending_account?.id ?? "");
    expect(await until(again, "connected")).toMatchObject({ connection: { account: { name: "Grace Hopper" } } });
  });
});

test("disposed flow leaves nothing running", async () => {
  const { client, proxy, leave } = await tab();
  const { flow } = await startedFlow(client);
  await vi.waitFor(() => expect(client.stream.state).toBe("live"), 20_000);
  leave();
  expect(proxy.streams).toBe(1);
  flow.dispose();
  expect(client.stream.state).toBe("idle");
  await vi.waitFor(() => expect(proxy.streams).toBe(0), 20_000);
  const asked = proxy.seen.length;
  window.dispatchEvent(new Event("focus"));
  seen();
  // Only this call sends a request; the flow sends none.
  await client.listConnections();
  expect(proxy.seen.length).toBe(asked + 1);
});
