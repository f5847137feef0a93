import { describe, expect, test, vi } from "vitest";
import { createClient } from "../src/index.js";
import { browser } from "./support/browser.js";
import { startedFlow, flowOf, seen, tab, until, waiting } from "./support/flow.js";
import { faults } from "./support/nango.js";

describe("connect", () => {
  test("opens the popup on click and completes when the service confirms", async () => {
    const { client } = await tab();
    const onConnected = vi.fn();
    const flow = flowOf(client, { connectorId: "gmail" }, { onConnected });
    const phases: string[] = [];
    flow.subscribe(() => phases.push(flow.state.phase));
    flow.start();
    expect(browser.popups).toHaveLength(1);
    expect(browser.popup.features).toMatch(/^popup,width=\d+,height=\d+/);
    expect(browser.popup.document.body.textContent).toBe("Connecting…");
    expect(browser.popup.visited).toEqual([]);
    await waiting(flow);
    expect(browser.popup.url).toContain("/oauth/connect/gmail?connect_session_token=");
    await browser.popup.decide("allow");
    const state = await until(flow, "connected");
    expect(state).toMatchObject({ connection: { status: "connected", connector_slug: "gmail" }, alreadyConnected: false });
    expect(phases).toEqual(["starting", "waiting", "connected"]);
    expect(onConnected).toHaveBeenCalledTimes(1);
    expect(sessionStorage).toHaveLength(0);
  });

  test("reports a denial and retries with one click", async () => {
    const { client } = await tab();
    const { flow } = await startedFlow(client);
    await browser.popup.decide("deny");
    expect(await until(flow, "denied")).toMatchObject({ reason: "authorization_denied", detail: expect.any(String) });
    flow.start();
    await waiting(flow);
    await browser.popup.decide("allow");
    await until(flow, "connected");
  });

  test("completes when granted after a denial", async () => {
    const { client } = await tab();
    const { flow } = await startedFlow(client);
    await browser.popup.decide("deny");
    await until(flow, "denied");
    await browser.popup.decide("allow");
    await until(flow, "connected");
  });

  test("closes the popup when already connected", async () => {
    const { client } = await tab();
    const { flow } = await startedFlow(client);
    await browser.popup.decide("allow");
    await until(flow, "connected");
    const again = flowOf(client, { connectorId: "gmail" });
    again.start();
    expect(await until(again, "connected")).toMatchObject({ alreadyConnected: true });
    expect(browser.popup.closed).toBe(true);
    expect(browser.popup.visited).toEqual([]);
  });

  test("closes the popup and reports the reason when the service rejects it", async () => {
    const { client } = await tab();
    await faults({ status: 503, only: "POST /connect/sessions" });
    const flow = flowOf(client, { connectorId: "gmail" });
    flow.start();
    expect(await until(flow, "refused")).toMatchObject({ error: { code: "nango_unavailable" } });
    expect(browser.popup.closed).toBe(true);
    await faults({});
    flow.start();
    await waiting(flow);
  });

  test("does not open script URLs", async () => {
    const { client, proxy } = await tab();
    const { flow } = await startedFlow(client);
    flow.dismiss();
    const answer = { connection_id: "x", popup: true, already_connected: false, message: "", status: "pending" };
    const body = JSON.stringify({ ...answer, oauth_url: "javascript:alert(1)" });
    const lying = createClient({
      baseUrl: proxy.url,
      getToken: () => "token",
      fetch: () => Promise.resolve(new Response(body, { headers: { "content-type": "application/json" } })),
    });
    const other = flowOf(lying, { connectorId: "gmail" });
    other.start();
    expect(await until(other, "refused")).toMatchObject({ error: { code: "unreadable" } });
    expect(browser.popup.visited).toEqual([]);
  });
});

describe("popup", () => {
  test("has no opener that its pages could navigate, and is focused rather than opened twice", async () => {
    const { client } = await tab();
    const { flow } = await startedFlow(client);
    expect(browser.popup.opener).toBeNull();
    flow.reopen();
    expect(browser.popups).toHaveLength(1);
    expect(browser.popup.focused).toBe(true);
  });

  test("whose opener cannot be cut is not used", async () => {
    const { client } = await tab();
    browser.isolates = true;
    const flow = flowOf(client, { connectorId: "gmail" });
    flow.start();
    expect((await waiting(flow)).window).toBe("blocked");
    expect(browser.popup).toMatchObject({ closed: true, visited: [] });
  });

  test("polls immediately when closed and can be reopened for the same attempt", async () => {
    const { client, proxy } = await tab();
    const { flow, attempt } = await startedFlow(client);
    vi.setSystemTime(Date.now() + 10_000);
    const looks = proxy.count("GET /callback");
    browser.popup.closeItself();
    window.dispatchEvent(new Event("focus"));
    expect(flow.state).toMatchObject({ phase: "waiting", window: "closed" });
    await vi.waitFor(() => expect(proxy.count("GET /callback")).toBe(looks + 1), 20_000);
    vi.useRealTimers();
    flow.reopen();
    expect(browser.popups).toHaveLength(2);
    expect(browser.popup.url).toBe(attempt.oauthUrl);
    expect(flow.state).toMatchObject({ phase: "waiting", window: "open" });
    await browser.popup.decide("allow");
    await until(flow, "connected");
    expect(proxy.count(`POST /2ca8a1b8-0995-578b-b87c-dc39f677e722/connect`)).toBe(1);
  });

  test("is not treated as closed when severed by an opener policy", async () => {
    browser.cutsOff = true;
    const { client } = await tab();
    const { flow } = await startedFlow(client);
    window.dispatchEvent(new Event("focus"));
    expect(flow.state).toMatchObject({ phase: "waiting", window: "unknown" });
    await browser.popup.decide("allow");
    await until(flow, "connected");
  });

  test("leaves a link when blocked", async () => {
    browser.blocks = true;
    const { client } = await tab();
    const flow = flowOf(client, { connectorId: "gmail" });
    flow.start();
    const state = await waiting(flow);
    expect(state.window).toBe("blocked");
    flow.followed();
    expect(flow.state).toMatchObject({ window: "unknown" });
    await faults({ consent: "allow" });
    await fetch(state.attempt.oauthUrl ?? "", { headers: { accept: "text/html" } });
    await until(flow, "connected");
  });

  test("opens as a tab on small screens", async () => {
    const matchMedia = vi.fn((query: string) => ({ matches: query === "(pointer: coarse)" }));
    vi.stubGlobal("matchMedia", matchMedia);
    const { client } = await tab();
    await startedFlow(client);
    expect(browser.popup.features).toBe("");
    vi.unstubAllGlobals();
  });
});

describe("message", () => {
  test("is optional, as are webhooks", async () => {
    const { client } = await tab();
    const { flow } = await startedFlow(client);
    await faults({ drop_webhooks: true });
    await browser.popup.decide("allow");
    await until(flow, "connected");
  });
});

describe("without an event stream", () => {
  test("long-polls the service until the attempt ends", async () => {
    const { client, proxy } = await tab();
    proxy.fate = ({ path }) => (path.endsWith("/events") ? 502 : "pass");
    proxy.cutStreams();
    await vi.waitFor(() => expect(client.stream.state).not.toBe("live"), 20_000);
    const { flow } = await startedFlow(client);
    await vi.waitFor(() => expect(proxy.count("?wait=25")).toBeGreaterThan(0), 20_000);
    await browser.popup.decide("allow");
    await until(flow, "connected");
  });

  test("gateway_404_keeps_the_attempt", async () => {
    const { client, proxy } = await tab();
    const { flow } = await startedFlow(client);
    proxy.fate = () => 404;
    proxy.cutStreams();
    seen();
    await vi.waitFor(() => expect(flow.state).toMatchObject({ trouble: { code: "unreadable", status: 404 } }), 20_000);
    expect(flow.state.phase).toBe("waiting");
    expect(sessionStorage).toHaveLength(1);
    proxy.fate = () => "pass";
    await browser.popup.decide("allow");
    await until(flow, "connected");
  });

  test("treats an unreachable service as a transient problem", async () => {
    const { client, proxy } = await tab();
    const { flow } = await startedFlow(client);
    proxy.fate = () => "cut";
    proxy.cutStreams();
    seen();
    await vi.waitFor(() => expect(flow.state).toMatchObject({ trouble: { code: "network" } }), 20_000);
    await browser.popup.decide("allow");
    proxy.fate = () => "pass";
    await until(flow, "connected");
  });
});
