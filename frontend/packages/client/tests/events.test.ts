import { expect, test, vi } from "vitest";
import { EventStream, type Notice, type StreamTimes } from "../src/events.js";
import { Http } from "../src/http.js";
import { createClient } from "../src/index.js";
import { newUser, tokenFor } from "./support/nango.js";
import { Proxy } from "./support/proxy.js";

const TIMES: StreamTimes = { stall: 5_000, silence: 10_000, first: 20, longest: 100, poll: 50, hidden: 30 };

/** A user's stream through a proxy, its notices, and a client of the same user that bypasses the proxy. */
async function listening(options: { token?: () => string | null; times?: StreamTimes } = {}) {
  const proxy = await Proxy.start();
  const token = await tokenFor(newUser());
  const http = new Http({ baseUrl: proxy.url, getToken: options.token ?? (() => token) });
  const stream = new EventStream(http, options.times ?? TIMES);
  const notices: Notice[] = [];
  const leave = stream.subscribe((notice) => notices.push(notice));
  const direct = createClient({ baseUrl: proxy.url, getToken: () => token });
  const labels = async () => {
    const events = notices.flatMap((notice) => (notice.type === "event" ? [notice.event] : []));
    return events.filter((event) => event.kind === "updated").map((event) => event.version);
  };
  const live = () => vi.waitFor(() => expect(stream.state).toBe("live"), 20_000);
  return { proxy, token, http, stream, notices, leave, direct, labels, live };
}

test("delivers each change once across reconnects", async () => {
  const { proxy, notices, leave, direct, labels, live } = await listening();
  await live();
  // Each change is of another connection: changes of one within a minute are one event, with another id.
  const ids: string[] = [];
  for (const connector of ["gmail", "github", "notion"]) ids.push((await direct.connect(connector)).connection_id);
  const rename = (label: string) => direct.update(ids[Number(label) - 1] ?? "", { label });
  await rename("1");
  await vi.waitFor(async () => expect(await labels()).toHaveLength(1), 20_000);
  for (const label of ["2", "3"]) {
    // Events while no stream is open are read afterwards.
    proxy.fate = ({ path }) => (path.endsWith("/events") ? "cut" : "pass");
    proxy.cutStreams();
    await rename(label);
    proxy.fate = () => "pass";
    await live();
    await vi.waitFor(async () => expect(await labels()).toHaveLength(Number(label)), 20_000);
  }
  expect(await labels()).toEqual([2, 2, 2]);
  const resumed = proxy.seen.filter((one) => one.path.endsWith("/events") && one.lastEventId !== undefined);
  expect(resumed.length).toBeGreaterThanOrEqual(2);
  expect(notices.find((notice) => notice.type === "resync")).toBeTruthy();
  leave();
  await vi.waitFor(() => expect(proxy.streams).toBe(0), 20_000);
});

test("requests a reload when the last event is unknown", async () => {
  // With this interval, only the unknown event causes a resync.
  const { proxy, notices, leave, direct, labels, live } = await listening({ times: { ...TIMES, poll: 600_000 } });
  const resyncs = () => notices.filter((notice) => notice.type === "resync").length;
  await live();
  const { connection_id: id } = await direct.connect("gmail");
  const streams = () => proxy.count("/events");
  const again = async () => {
    const before = streams();
    proxy.cutStreams();
    await vi.waitFor(() => expect(streams()).toBe(before + 1), 20_000);
    await live();
  };
  await again();
  expect(resyncs()).toBe(1);
  // As after a backup was restored, in which this event is missing.
  proxy.lastEventId = "019a0000-0000-7000-8000-000000000000";
  await again();
  await vi.waitFor(() => expect(resyncs()).toBe(2), 20_000);
  await direct.update(id, { label: "1" });
  await vi.waitFor(async () => expect(await labels()).toHaveLength(1), 20_000);
  leave();
});

test("shares one stream between listeners and closes it with the last", async () => {
  const { proxy, stream, leave, live } = await listening();
  const leaveToo = stream.subscribe(() => {});
  await live();
  expect(proxy.count("/events")).toBe(1);
  leave();
  expect(stream.state).toBe("live");
  leaveToo();
  expect(stream.state).toBe("idle");
  await vi.waitFor(() => expect(proxy.streams).toBe(0), 20_000);
});

test("falls back to polling behind a proxy and resumes streaming", async () => {
  const { proxy, stream, notices, leave } = await listening();
  proxy.fate = () => 502;
  proxy.cutStreams();
  await vi.waitFor(() => expect(stream.state).toBe("polling"), 20_000);
  const resyncs = () => notices.filter((notice) => notice.type === "resync").length;
  const before = resyncs();
  await vi.waitFor(() => expect(resyncs()).toBeGreaterThan(before + 1), 20_000);
  proxy.fate = () => "pass";
  await vi.waitFor(() => expect(stream.state).toBe("live"), 20_000);
  leave();
});

test("stream_waits_as_long_as_the_service_asks", async () => {
  const { proxy, stream, leave, live } = await listening();
  await live();
  proxy.fate = () => ({ status: 429, type: "text/html", body: "", headers: { "retry-after": "2" } });
  const before = proxy.count("/events");
  proxy.cutStreams();
  await vi.waitFor(() => expect(stream.state).toBe("polling"), 20_000);
  await vi.waitFor(() => expect(proxy.count("/events")).toBe(before + 1), 20_000);
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  expect(proxy.count("/events")).toBe(before + 1);
  proxy.fate = () => "pass";
  await live();
  leave();
});

test("pauses while the session is expired and resumes afterwards", async () => {
  const good = await tokenFor(newUser());
  let token: string | null = "refused";
  const { proxy, http, stream, leave, live } = await listening({ token: () => token });
  await vi.waitFor(() => expect(stream.state).toBe("expired"), 20_000);
  const asked = proxy.count("/events");
  expect(asked).toBe(2);
  token = good;
  http.session.set(false);
  await live();
  expect(proxy.count("/events")).toBe(3);
  leave();
});

test("closes on a hidden page and resumes where it ended", async () => {
  const { proxy, direct, labels, leave, live } = await listening();
  await live();
  const { connection_id: id } = await direct.connect("gmail");
  const seen = (state: DocumentVisibilityState) => {
    Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  };
  seen("hidden");
  await vi.waitFor(() => expect(proxy.streams).toBe(0), 20_000);
  await direct.update(id, { label: "while hidden" });
  seen("visible");
  await vi.waitFor(async () => expect(await labels()).toEqual([2]), 20_000);
  leave();
});

test("page_that_starts_hidden_lets_its_stream_go", async () => {
  const seen = (state: DocumentVisibilityState) =>
    Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
  seen("hidden");
  const { proxy, leave } = await listening({ times: { ...TIMES, hidden: 500 } });
  await vi.waitFor(() => expect(proxy.count("/events")).toBe(1), 20_000);
  await vi.waitFor(() => expect(proxy.streams).toBe(0), 20_000);
  await new Promise((resolve) => setTimeout(resolve, 500));
  expect(proxy.count("/events")).toBe(1);
  seen("visible");
  document.dispatchEvent(new Event("visibilitychange"));
  await vi.waitFor(() => expect(proxy.streams).toBe(1), 20_000);
  leave();
});
