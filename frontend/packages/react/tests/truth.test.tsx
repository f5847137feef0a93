// What is shown is what the service has, however its responses come.
import { QueryClient, QueryObserver } from "@tanstack/react-query";
import { screen, waitFor, within } from "@testing-library/react";
import { expect, test, vi } from "vitest";
import type { Client, ConnectionEvent } from "@patchbay/client";
import { ConnectButton, ConnectionManager, useConnection, useConnections, type Connection } from "../src/index.js";
import { Cache, RECOVERING, type ConnectionList } from "../src/react/cache.js";
import { browser } from "../../client/tests/support/browser.js";
import { newUser } from "../../client/tests/support/nango.js";
import { Proxy, type Fate, type Seen } from "../../client/tests/support/proxy.js";
import { connected, page } from "./support/render.js";

/** The list as the page has it. */
function Shown() {
  const { connections, totalCount } = useConnections();
  const rows = connections.map(({ id, status, label, version }) => ({ id, status, label: label ?? null, version }));
  return <output data-testid="list">{JSON.stringify({ rows, totalCount })}</output>;
}

function One({ id }: { id: string }) {
  const { connection } = useConnection(id);
  return <output data-testid="one">{JSON.stringify({ status: connection?.status, version: connection?.version })}</output>;
}

const shown = () => JSON.parse(screen.getByTestId("list").textContent) as { rows: Partial<Connection>[]; totalCount: number };
const isList = ({ path }: Seen) => path.startsWith("/connections?");

test("late_list_does_not_revert_a_disconnect", async () => {
  const { elsewhere, proxy, queries } = await page(<Shown />);
  const id = await connected(elsewhere, "gmail");
  await waitFor(() => expect(shown().rows).toMatchObject([{ status: "connected" }]));
  proxy.fate = (seen) => (isList(seen) ? { late: 2_000 } : "pass");
  void queries.invalidateQueries();
  await waitFor(() => expect(queries.isFetching()).toBeGreaterThan(0));
  await elsewhere.disconnect("gmail", { connectionId: id });
  await waitFor(() => expect(shown().rows).toMatchObject([{ status: "disconnected" }]));
  const seen: unknown[] = [];
  const watching = setInterval(() => seen.push(shown().rows[0]?.status), 20);
  await waitFor(() => expect(queries.isFetching()).toBe(0));
  await new Promise((resolve) => setTimeout(resolve, 500));
  clearInterval(watching);
  expect(new Set(seen)).toEqual(new Set(["disconnected"]));
});

test("late_first_list_does_not_hide_what_ended_meanwhile", async () => {
  const proxy = await Proxy.start();
  const { elsewhere, user, unmount } = await page(null, { proxy });
  const id = await connected(elsewhere, "gmail");
  unmount();
  // The service has answered, and the answer is on its way for as long as it takes to disconnect.
  proxy.fate = (seen) => (isList(seen) ? { late: 3_000 } : "pass");
  await page(
    <>
      <Shown />
      <One id={id} />
    </>,
    { proxy, user },
  );
  await waitFor(() => expect(proxy.streams).toBe(1));
  await waitFor(() => expect(proxy.seen.some(isList)).toBe(true));
  await new Promise((resolve) => setTimeout(resolve, 300));
  await elsewhere.disconnect("gmail", { connectionId: id });
  await waitFor(() => expect(shown().rows).toMatchObject([{ status: "disconnected" }]), { timeout: 5_000 });
  expect(screen.getByTestId("one").textContent).toContain("disconnected");
});

test("repeated_old_answers_are_not_believed", async () => {
  const { elsewhere, proxy, queries } = await page(<Shown />);
  const id = await connected(elsewhere, "gmail");
  await waitFor(() => expect(shown().rows).toMatchObject([{ status: "connected" }]));
  // From a cache that should not be there: as it was before.
  proxy.fate = ({ method }) => (method === "GET" ? "stale" : "pass");
  await elsewhere.disconnect("gmail", { connectionId: id });
  const second = await elsewhere.connect("github");
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  proxy.fate = (seen) => (isList(seen) ? "stale" : "pass");
  // The event contains the version, so the client polls until it receives that version.
  await waitFor(() => expect(shown().rows).toHaveLength(2));
  expect(shown()).toMatchObject({ totalCount: 2 });
  const ended = () => expect(shown().rows.find((row) => row.id === id)?.status).toBe("disconnected");
  await waitFor(ended);
  await queries.invalidateQueries();
  await waitFor(() => expect(queries.isFetching()).toBe(0));
  expect(shown().rows.map((row) => row.id).sort()).toEqual([id, second.connection_id].sort());
  ended();
});

test("random_delays_orders_and_repetitions_end_in_the_truth", async () => {
  const seed = Number(process.env["SEED"] ?? Date.now() % 100_000);
  console.log(`SEED=${seed}`);
  const random = generator(seed);
  const proxy = await Proxy.start();
  const fate = ({ method }: Seen): Fate => {
    const dice = random();
    if (method !== "GET") return dice < 0.3 ? { late: random() * 800 } : "pass";
    if (dice < 0.15) return "stale";
    if (dice < 0.2) return "cut";
    if (dice < 0.25) return 404;
    return dice < 0.75 ? { late: random() * 1_500 } : "pass";
  };
  const user = newUser();
  let { elsewhere, unmount } = await page(<Shown />, { proxy, user });
  const direct = (await page(null, { user })).elsewhere;
  const labels = ["one", "two", null];
  for (let round = 0; round < 25; round += 1) {
    proxy.fate = fate;
    const client = random() < 0.5 ? direct : elsewhere;
    const { connections } = await direct.listConnections();
    const some = connections[Math.floor(random() * connections.length)];
    const dice = random();
    if (dice < 0.35 || !some) await act(client, () => client.connect("gmail", { instanceId: String(Math.floor(random() * 5)) }));
    else if (dice < 0.6) await act(client, () => client.update(some.id, { label: labels[Math.floor(random() * 3)] ?? null }));
    else if (dice < 0.8) await act(client, () => client.disconnect("gmail", { connectionId: some.id }));
    else {
      unmount();
      ({ elsewhere, unmount } = await page(<Shown />, { proxy, user }));
    }
    if (random() < 0.3) proxy.cutStreams();
  }
  proxy.fate = () => "pass";
  // A repeated old list is only recognized when an event names a newer version, so each connection changes once more.
  for (const { id } of (await direct.listConnections({ limit: 500 })).connections) await direct.update(id, { label: "last" });
  const { connections, total_count } = await direct.listConnections({ limit: 500 });
  const rows = connections.map(({ id, status, label, version }) => ({ id, status, label: label ?? null, version }));
  await waitFor(() => {
    const now = shown();
    expect(now.rows.sort(byId)).toEqual(rows.sort(byId));
    expect(now.totalCount).toBe(total_count);
  }, { timeout: 40_000, interval: 100 });

  async function act(_: Client, work: () => Promise<unknown>) {
    // What is refused or lost has another chance in the next round.
    await work().catch(() => undefined);
  }
});

const byId = (one: Partial<Connection>, other: Partial<Connection>) => String(one.id).localeCompare(String(other.id));

/** Mulberry32: random numbers that a seed brings again. */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** A cache over a service that is made up, whose requests are counted. */
function cacheOver(answers: { list: () => Promise<Connection[]>; one?: (id: string) => Promise<Connection> }) {
  const requests = { list: 0, one: 0 };
  const client = {
    session: { expired: false },
    listConnections: async () => {
      requests.list += 1;
      const connections = await answers.list();
      return { connections, total_count: connections.length };
    },
    getConnection: (id: string) => {
      requests.one += 1;
      return answers.one?.(id) ?? Promise.reject(new Error("no"));
    },
  } as unknown as Client;
  const queries = new QueryClient();
  const cache = new Cache(client, queries, "test");
  const observer = new QueryObserver<ConnectionList>(queries, {
    queryKey: cache.connections,
    queryFn: ({ signal }) => cache.fetchConnections(signal),
    structuralSharing: cache.merged,
    ...RECOVERING,
  });
  return { cache, requests, observer, list: () => observer.getCurrentResult().data?.connections };
}

const connection = (id: string, version: number) => ({ id, version, status: "connected", connector_slug: "gmail" }) as Connection;
const changed = (id: string, version: number) => ({ connection_id: id, version }) as ConnectionEvent;

/** The requests that follow from 300 changes of these many connections, one every so many milliseconds. */
async function requestsAfterChanges(count: number, pause: number) {
  const versions = new Map(Array.from({ length: count }, (_, id) => [String(id), 1]));
  const { cache, requests, observer, list } = cacheOver({
    list: () => Promise.resolve([...versions].map(([id, version]) => connection(id, version))),
    one: (id) => Promise.resolve(connection(id, versions.get(id) ?? 0)),
  });
  const leave = observer.subscribe(() => {});
  await vi.waitFor(() => expect(list()).toHaveLength(count), 20_000);
  // Loads what fetches changes.
  await cache.refresh("0");
  Object.assign(requests, { list: 0, one: 0 });
  vi.useFakeTimers();
  try {
    for (let change = 0; change < 300; change += 1) {
      const id = String(change % count);
      versions.set(id, (versions.get(id) ?? 0) + 1);
      cache.take({ type: "event", event: { ...changed(id, versions.get(id) ?? 0), kind: "updated" } });
      await vi.advanceTimersByTimeAsync(pause);
    }
    await vi.advanceTimersByTimeAsync(2_000);
  } finally {
    vi.useRealTimers();
  }
  expect(list()?.map(({ version }) => version)).toEqual([...versions.values()]);
  leave();
  return requests;
}

test.each([
  { count: 60, pause: 10, list: 4, one: 1 },
  { count: 10, pause: 30, list: 10, one: 1 },
  { count: 10, pause: 100, list: 31, one: 3 },
])("burst_is_fetched_once_a_second ($count every $pause ms)", async ({ count, pause, list, one }) => {
  const requests = await requestsAfterChanges(count, pause);
  expect(requests).toEqual({ list, one });
});

test("few_changes_are_fetched_one_by_one", async () => {
  const requests = await requestsAfterChanges(2, 500);
  expect(requests.list).toBe(0);
  expect(requests.one).toBeLessThanOrEqual(300);
});

test("update_during_its_own_fetch_is_fetched_again", async () => {
  const labels = ["old"];
  const answers: (() => void)[] = [];
  const { cache, observer, list } = cacheOver({
    list: () => Promise.resolve([connection("1", 1)]),
    one: async (id) => {
      const answer = { ...connection(id, 2), label: labels.at(-1) ?? null };
      await new Promise<void>((resolve) => answers.push(resolve));
      return answer;
    },
  });
  const leave = observer.subscribe(() => {});
  await vi.waitFor(() => expect(list()).toHaveLength(1), 20_000);
  // Updates within a minute share a version.
  const update = () => cache.take({ type: "event", event: { ...changed("1", 2), kind: "updated" } });
  update();
  await vi.waitFor(() => expect(answers).toHaveLength(1), 20_000);
  labels.push("new");
  update();
  await Promise.resolve();
  answers[0]?.();
  await vi.waitFor(() => expect(answers).toHaveLength(2), 20_000);
  answers[1]?.();
  await vi.waitFor(() => expect(list()?.[0]?.label).toBe("new"), 20_000);
  leave();
});

test("slow_list_is_not_interrupted_by_polls", async () => {
  let version = 0;
  const { cache, requests, observer, list } = cacheOver({
    list: async () => {
      version += 1;
      const answer = [connection("1", version)];
      await new Promise((resolve) => setTimeout(resolve, 1_200));
      return answer;
    },
  });
  const leave = observer.subscribe(() => {});
  const polls = setInterval(() => cache.take({ type: "resync", reason: "poll" }), 100);
  await vi.waitFor(() => expect(list()?.[0]?.version).toBe(1), 20_000);
  await vi.waitFor(() => expect(list()?.[0]?.version).toBe(3), { timeout: 10_000 });
  clearInterval(polls);
  expect(requests.list).toBeLessThanOrEqual(4);
  leave();
});

test("resync_during_a_fetch_follows_it", async () => {
  let version = 1;
  const { cache, observer, list } = cacheOver({
    list: async () => {
      const answer = [connection("1", version)];
      await new Promise((resolve) => setTimeout(resolve, 500));
      return answer;
    },
  });
  const leave = observer.subscribe(() => {});
  await new Promise((resolve) => setTimeout(resolve, 100));
  version = 2;
  cache.take({ type: "resync", reason: "start" });
  await vi.waitFor(() => expect(list()?.[0]?.version).toBe(2), 20_000);
  leave();
});

test("restored_backup_is_believed_with_lower_versions", async () => {
  let version = 9;
  const { cache, observer, list } = cacheOver({ list: () => Promise.resolve([connection("1", version)]) });
  const leave = observer.subscribe(() => {});
  await vi.waitFor(() => expect(list()?.[0]?.version).toBe(9), 20_000);
  version = 4;
  cache.take({ type: "resync", reason: "lost" });
  await vi.waitFor(() => expect(list()?.[0]?.version).toBe(4), 20_000);
  leave();
});

test("two_buttons_share_one_flow", async () => {
  const onConnected = [vi.fn(), vi.fn()];
  const { person, proxy, elsewhere } = await page(
    <>
      <section aria-label="first">
        <ConnectButton connectorId="gmail" connectorName="Gmail" onConnected={onConnected[0]} />
      </section>
      <section aria-label="second">
        <ConnectButton connectorId={GMAIL} connectorName="Gmail" onConnected={onConnected[1]} />
      </section>
      <ConnectionManager />
    </>,
  );
  const first = within(screen.getByRole("region", { name: "first" }));
  const second = within(screen.getByRole("region", { name: "second" }));
  await person.click(await first.findByRole("button", { name: "Connect Gmail" }));
  await waitFor(() => expect(browser.popup.visited).toHaveLength(1));
  // The second is named by the connector's id, the manager's row by the connection: all of them show the one window.
  await second.findByRole("button", { name: "Connecting Gmail…" });
  const card = within(await screen.findByRole("listitem", { name: "Gmail" }));
  await card.findByRole("button", { name: "Connecting Gmail…" });
  await person.click(second.getByRole("button", { name: "Connecting Gmail…" }));
  expect(browser.popups).toHaveLength(1);
  await browser.popup.decide("allow");
  await first.findByRole("button", { name: "Gmail connected" });
  await second.findByRole("button", { name: "Gmail connected" });
  expect(onConnected.map((listener) => listener.mock.calls.length)).toEqual([1, 0]);
  expect(proxy.count("POST /")).toBe(1);
  const { events } = await elsewhere.history((await elsewhere.listConnections()).connections[0]?.id ?? "");
  expect(events.filter(({ kind }) => kind === "attempt_started")).toHaveLength(1);
});

test("another_user_never_sees_the_first_ones_connecting", async () => {
  const first = await page(<ConnectButton connectorId="gmail" connectorName="Gmail" />);
  await first.person.click(await screen.findByRole("button", { name: "Connect Gmail" }));
  await waitFor(() => expect(browser.popup.visited).toHaveLength(1));
  await screen.findByRole("button", { name: "Connecting Gmail…" });
  const seen: string[] = [];
  const observer = new MutationObserver(() => seen.push(document.body.textContent));
  await first.signIn(newUser());
  observer.observe(document.body, { subtree: true, childList: true, characterData: true });
  await screen.findByRole("button", { name: "Connect Gmail" });
  await waitFor(() => expect(first.queries.isFetching()).toBe(0));
  observer.disconnect();
  expect(seen.join()).not.toContain("Connecting Gmail…");
  expect(screen.queryByRole("button", { name: "Connecting Gmail…" })).toBeNull();
});

/** Gmail's id in the catalog that is built in. */
const GMAIL = "2ca8a1b8-0995-578b-b87c-dc39f677e722";
