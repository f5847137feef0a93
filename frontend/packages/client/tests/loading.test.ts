// Code that is loaded apart: the steps of a connect, and the reader of the event stream.
import { expect, test, vi } from "vitest";
import type { Notice } from "../src/index.js";
import { browser } from "./support/browser.js";
import { newUser, tokenFor } from "./support/nango.js";
import { Proxy } from "./support/proxy.js";

/** A new import of the client, in which `load` provides the module at `path`. */
async function clientWith(path: string, load: () => object | Promise<object>) {
  vi.resetModules();
  vi.doMock(path, load);
  const { createClient, connectFlow } = await import("../src/index.js");
  const proxy = await Proxy.start();
  const token = await tokenFor(newUser());
  return { client: createClient({ baseUrl: proxy.url, getToken: () => token }), connectFlow, proxy };
}

const ENGINE = "../src/flow/engine.js";
const STREAM = "../src/stream.js";

function broken(): never {
  throw new TypeError("Failed to fetch dynamically imported module");
}

test("window_opens_in_the_click_while_the_steps_load", async () => {
  let arrive = () => {};
  const arrived = new Promise<void>((resolve) => (arrive = resolve));
  const { client, connectFlow } = await clientWith(ENGINE, async () => {
    await arrived;
    return vi.importActual<object>(ENGINE);
  });
  const flow = connectFlow(client, { connectorId: "gmail" });
  flow.start();
  expect(flow.state).toEqual({ phase: "starting", window: "open" });
  expect(browser.popups).toHaveLength(1);
  flow.reopen();
  expect(browser.popup.focused).toBe(true);
  expect(browser.popups).toHaveLength(1);
  arrive();
  await vi.waitFor(() => expect(flow.state.phase).toBe("waiting"), 20_000);
  expect(browser.popups).toHaveLength(1);
  expect(browser.popup.visited).toHaveLength(1);
  flow.dispose();
});

test("click_that_is_canceled_while_the_steps_load_starts_nothing", async () => {
  let arrive = () => {};
  const arrived = new Promise<void>((resolve) => (arrive = resolve));
  const { client, connectFlow, proxy } = await clientWith(ENGINE, async () => {
    await arrived;
    return vi.importActual<object>(ENGINE);
  });
  const flow = connectFlow(client, { connectorId: "gmail" });
  flow.start();
  flow.dismiss();
  expect(flow.state).toEqual({ phase: "idle", canceled: true });
  expect(browser.popup.closed).toBe(true);
  arrive();
  await import(ENGINE);
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(flow.state.phase).toBe("idle");
  expect(proxy.seen).toEqual([]);
});

test("click_is_refused_when_the_steps_cannot_be_loaded", async () => {
  const { client, connectFlow } = await clientWith(ENGINE, broken);
  const flow = connectFlow(client, { connectorId: "gmail" });
  flow.start();
  await vi.waitFor(() => expect(flow.state).toMatchObject({ phase: "refused", error: { code: "network" } }), 20_000);
  expect(browser.popup.closed).toBe(true);
  vi.doUnmock(ENGINE);
  flow.start();
  await vi.waitFor(() => expect(flow.state.phase).toBe("waiting"), 20_000);
  flow.dispose();
});

test("stream_whose_reader_cannot_be_loaded_polls_and_recovers", async () => {
  const { client } = await clientWith(STREAM, broken);
  const notices: Notice[] = [];
  const leave = client.events((notice) => notices.push(notice));
  await vi.waitFor(() => expect(notices).toContainEqual({ type: "resync", reason: "poll" }), 20_000);
  expect(client.stream.state).toBe("polling");
  vi.doUnmock(STREAM);
  await vi.waitFor(() => expect(client.stream.state).toBe("live"), 20_000);
  leave();
});
