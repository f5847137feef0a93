// Several tabs of one user in one browser: one stream and one request for all.
import { beforeEach, expect, onTestFinished, test, vi } from "vitest";
import { Client } from "../src/client.js";
import { EventStream, STREAM_TIMES, type Notice, type StreamTimes } from "../src/events.js";
import { Http } from "../src/http.js";
import { Locks } from "./support/locks.js";
import { newUser, tokenFor } from "./support/nango.js";
import { Proxy } from "./support/proxy.js";

const TIMES: StreamTimes = { ...STREAM_TIMES, first: 20, longest: 100, poll: 600_000 };

beforeEach(() => {
  Object.defineProperty(navigator, "locks", { value: new Locks(), configurable: true });
  return () => Reflect.deleteProperty(navigator, "locks");
});

/** Streams of one user, each as in a tab of its own. */
async function tabs(count: number, times: StreamTimes = TIMES, proxy?: Proxy) {
  const between = proxy ?? (await Proxy.start());
  const token = await tokenFor(newUser());
  const open = () => {
    const stream = new EventStream(new Http({ baseUrl: between.url, getToken: () => token }), times);
    const notices: Notice[] = [];
    const leave = stream.subscribe((notice) => notices.push(notice));
    onTestFinished(leave);
    const versions = () => notices.flatMap((notice) => (notice.type === "event" ? [notice.event.version] : []));
    const resyncs = () => notices.flatMap((notice) => (notice.type === "resync" ? [notice.reason] : []));
    return { stream, notices, leave, versions, resyncs };
  };
  const direct = new Client({ baseUrl: between.url, getToken: () => token });
  return { proxy: between, token, open, direct, all: Array.from({ length: count }, open) };
}

test("tabs_share_one_stream_and_each_gets_every_event", async () => {
  const { proxy, all, direct, open } = await tabs(7);
  await vi.waitFor(() => expect(all.map(({ stream }) => stream.state)).toEqual(Array(7).fill("live")), 20_000);
  const { connection_id: id } = await direct.connect("gmail");
  await direct.update(id, { label: "one" });
  await vi.waitFor(() => expect(all.map(({ versions }) => versions())).toEqual(Array(7).fill([1, 2])), 20_000);
  const late = open();
  await vi.waitFor(() => expect(late.resyncs()).toEqual(["start"]), 20_000);
  expect(late.stream.state).toBe("live");
  expect(proxy.count("/events")).toBe(1);
  expect(all.map(({ resyncs }) => resyncs())).toEqual(Array(7).fill(["start"]));
});

test("next_tab_resumes_after_the_last_event", async () => {
  const { proxy, all, direct } = await tabs(3);
  await vi.waitFor(() => expect(all.map(({ stream }) => stream.state)).toEqual(Array(3).fill("live")), 20_000);
  const { connection_id: id } = await direct.connect("gmail");
  await vi.waitFor(() => expect(all.map(({ versions }) => versions())).toEqual(Array(3).fill([1])), 20_000);
  all.shift()?.leave();
  await direct.update(id, { label: "one" });
  await vi.waitFor(() => expect(all.map(({ versions }) => versions())).toEqual(Array(2).fill([1, 2])), 20_000);
  await vi.waitFor(() => expect(proxy.streams).toBe(1), 20_000);
  expect(proxy.count("/events")).toBe(2);
  expect(all.map(({ resyncs }) => resyncs())).toEqual(Array(2).fill(["start"]));
});

test("hidden_tab_leaves_the_stream_to_a_visible_one", async () => {
  const { proxy, all, open, direct } = await tabs(1, { ...TIMES, hidden: 30 });
  await vi.waitFor(() => expect(all[0]?.stream.state).toBe("live"), 20_000);
  const seen = (state: DocumentVisibilityState) => Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
  seen("hidden");
  document.dispatchEvent(new Event("visibilitychange"));
  seen("visible");
  const visible = open();
  await vi.waitFor(() => expect(proxy.count("/events")).toBe(2), 20_000);
  await vi.waitFor(() => expect(visible.stream.state).toBe("live"), 20_000);
  await direct.connect("gmail");
  await vi.waitFor(() => expect([visible, ...all].map(({ versions }) => versions())).toEqual([[1], [1]]), 20_000);
  expect(proxy.streams).toBe(1);
});

test("tab_that_hears_nothing_polls", async () => {
  const { all, proxy } = await tabs(2, { ...TIMES, stall: 200, silence: 300, poll: 50 }, await hanging());
  // The first tab has the stream and polls for both; the second one polls by itself once the first is silent.
  const [first, second] = all;
  await vi.waitFor(() => expect(second?.resyncs().length).toBeGreaterThan(3), 20_000);
  expect(first?.stream.state).toBe("polling");
  expect(second?.stream.state).toBe("polling");
  expect(proxy.count("/events")).toBeLessThan(10);
});

test("stalled_stream_is_noticed_within_seconds", async () => {
  const { all } = await tabs(1, STREAM_TIMES, await hanging());
  const began = performance.now();
  await vi.waitFor(() => expect(all[0]?.resyncs()).toEqual(["poll"]), 20_000);
  expect(all[0]?.stream.state).toBe("polling");
  expect(performance.now() - began).toBeLessThan(6_000);
});

test("tabs_share_what_one_of_them_reads", async () => {
  const proxy = await Proxy.start();
  const token = await tokenFor(newUser());
  const clients = Array.from({ length: 6 }, () => new Client({ baseUrl: proxy.url, getToken: () => token }));
  for (const client of clients) onTestFinished(client.events(() => {}));
  await vi.waitFor(() => expect(clients.map(({ stream }) => stream.state)).toEqual(Array(6).fill("live")), 20_000);
  await Promise.all(clients.map((client) => client.listConnections()));
  expect(proxy.count("GET /connections?") + proxy.count("GET /connections ")).toBeLessThanOrEqual(1);
  const lists = () => proxy.seen.filter(({ method, path }) => method === "GET" && path === "/connections").length;
  expect(lists()).toBe(1);
  // Longer than a tab stores the others' answers. A tab that has changed something fetches it again.
  await new Promise((resolve) => setTimeout(resolve, 2_100));
  const [first, ...others] = clients;
  proxy.fate = ({ path }) => (path === "/connections" ? { late: 500 } : "pass");
  const reads = others.map((client) => client.listConnections());
  await vi.waitFor(() => expect(lists()).toBe(2), 20_000);
  // A tab that opens meanwhile asks who has the stream, which is no answer.
  const late = new Client({ baseUrl: proxy.url, getToken: () => token });
  onTestFinished(late.events(() => {}));
  await vi.waitFor(() => expect(late.stream.state).toBe("live"), 20_000);
  const { connection_id: id } = (await first?.connect("gmail")) ?? {};
  expect((await first?.listConnections())?.connections.map((one) => one.id)).toEqual([id]);
  await Promise.all(reads);
});

test("tabs_that_read_at_different_times_share_one_pace", async () => {
  const proxy = await Proxy.start();
  const token = await tokenFor(newUser());
  const clients = Array.from({ length: 6 }, () => new Client({ baseUrl: proxy.url, getToken: () => token }));
  for (const client of clients) onTestFinished(client.events(() => {}));
  await vi.waitFor(() => expect(clients.map(({ stream }) => stream.state)).toEqual(Array(6).fill("live")), 20_000);
  const direct = new Client({ baseUrl: proxy.url, getToken: () => token });
  const { connection_id: id } = await direct.connect("gmail");
  const began = performance.now();
  // Something changes all the time, so that no answer is new enough for a tab that asks later.
  const change = () => void direct.update(id, { label: String(Math.random()) }).catch(() => undefined);
  const changing = setInterval(change, 100);
  const read = async (client: Client, index: number) => {
    await new Promise((resolve) => setTimeout(resolve, index * 150));
    while (performance.now() - began < 6_000) {
      await client.listConnections();
      await new Promise((resolve) => setTimeout(resolve, 1_000));
    }
  };
  await Promise.all(clients.map(read));
  clearInterval(changing);
  const lists = proxy.seen.filter(({ path }) => path === "/connections").length;
  expect(lists).toBeLessThanOrEqual(12);
});

test("tab_takes_what_another_tab_has_read_since_the_change", async () => {
  const proxy = await Proxy.start();
  const token = await tokenFor(newUser());
  const clients = [0, 1].map(() => new Client({ baseUrl: proxy.url, getToken: () => token }));
  const events = clients.map((client) => {
    const versions: number[] = [];
    onTestFinished(client.events((notice) => notice.type === "event" && versions.push(notice.event.version)));
    return versions;
  });
  await vi.waitFor(() => expect(clients.map(({ stream }) => stream.state)).toEqual(["live", "live"]), 20_000);
  const direct = new Client({ baseUrl: proxy.url, getToken: () => token });
  const { connection_id: id } = await direct.connect("gmail");
  await vi.waitFor(() => expect(events).toEqual([[1], [1]]), 20_000);
  const reads = () => proxy.seen.filter(({ method, path }) => method === "GET" && path === `/connections/${id}`).length;
  await clients[0]?.getConnection(id);
  // The second tab comes later, as after a pause, and what changed meanwhile is another connection.
  await direct.connect("github");
  await vi.waitFor(() => expect(events).toEqual([[1, 1], [1, 1]]), 20_000);
  await clients[1]?.getConnection(id);
  expect(reads()).toBe(1);
  // A tab's own answer is never the answer to its next request, and a newer change is fetched.
  await clients[0]?.getConnection(id);
  await direct.update(id, { label: "new" });
  await vi.waitFor(() => expect(events.map((versions) => versions.length)).toEqual([3, 3]), 20_000);
  expect((await clients[1]?.getConnection(id))?.label).toBe("new");
  expect(reads()).toBe(3);
});

test("slow_request_of_another_tab_is_not_awaited_for_ever", async () => {
  const proxy = await Proxy.start();
  const token = await tokenFor(newUser());
  const clients = [0, 1].map(() => new Client({ baseUrl: proxy.url, getToken: () => token }));
  for (const client of clients) onTestFinished(client.events(() => {}));
  await vi.waitFor(() => expect(clients.map(({ stream }) => stream.state)).toEqual(["live", "live"]), 20_000);
  const isList = ({ path }: { path: string }) => path === "/connections";
  let lists = 0;
  proxy.fate = (seen) => (isList(seen) && (lists += 1) === 1 ? { late: 13_000 } : "pass");
  const began = performance.now();
  const [first, second] = clients.map((client) => client.listConnections().then(() => performance.now() - began));
  expect(await second).toBeLessThan(12_000);
  expect(await first).toBeGreaterThan(12_000);
  expect(lists).toBe(2);
});

test("blocked_site_data_leaves_each_tab_its_own_stream", async () => {
  const denied = async () => {
    await new Promise((resolve) => setTimeout(resolve, 1));
    throw new DOMException("The request was denied.", "SecurityError");
  };
  Object.defineProperty(navigator, "locks", { value: { request: denied, query: denied }, configurable: true });
  const proxy = await Proxy.start();
  const token = await tokenFor(newUser());
  const client = new Client({ baseUrl: proxy.url, getToken: () => token });
  onTestFinished(client.events(() => {}));
  await vi.waitFor(() => expect(client.stream.state).toBe("live"), 5_000);
  expect((await client.listConnections()).total_count).toBe(0);
});

/** A proxy that never passes a stream on. */
async function hanging() {
  const proxy = await Proxy.start();
  proxy.fate = ({ path }) => (path.endsWith("/events") ? "hang" : "pass");
  return proxy;
}
