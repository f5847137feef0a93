import { createServer } from "node:http";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { expect, inject, test, vi } from "vitest";
import { allPages, createClient, PatchbayError, type Client } from "../src/index.js";
import { faults, newUser, tokenFor } from "./support/nango.js";
import { Proxy, type Canned } from "./support/proxy.js";

/** What the service tells of a connection at the least. */
const CONNECTION = {
  id: "1",
  user_id: "ada",
  connector_id: "2",
  connector_slug: "gmail",
  connector_name: "Gmail",
  instance_id: "",
  status: "connected",
  config: {},
  same_account_as: [],
  error_count: 0,
  version: 1,
  created_at: "2026-01-01T00:00:00Z",
  updated_at: "2026-01-01T00:00:00.5+00:00",
};

async function client(baseUrl = inject("patchbay"), user = newUser()): Promise<Client> {
  const token = await tokenFor(user);
  return createClient({ baseUrl, getToken: () => token });
}

async function failure(promise: Promise<unknown>): Promise<PatchbayError> {
  const error: unknown = await promise.then(
    () => new Error("it worked"),
    (cause: unknown) => cause,
  );
  if (!(error instanceof PatchbayError)) throw error;
  return error;
}

test("calls every user endpoint", async () => {
  const ada = await client();
  const page = await ada.listConnectors({ search: "gmail" });
  expect(page.connectors.map((connector) => connector.slug)).toEqual(["gmail"]);
  const gmail = await ada.getConnector("gmail");
  const started = await ada.connect(gmail.id, { instanceId: "work", details: { label: "Work" } });
  expect(started).toMatchObject({ status: "pending", already_connected: false });
  const id = started.connection_id;
  expect(await ada.getConnection(id)).toMatchObject({ label: "Work", instance_id: "work" });
  expect(await ada.update(id, { label: "Job" })).toMatchObject({ label: "Job" });
  expect(await ada.listConnections({ connector_id: "gmail" })).toMatchObject({ total_count: 1 });
  expect(await ada.returned(id)).toMatchObject({ success: false, status: "pending" });
  expect((await ada.history(id, { limit: 1 })).events).toMatchObject([{ kind: "updated" }]);
  expect(await ada.reconnect(id)).toMatchObject({ connection_id: id, status: "pending" });
  expect(await ada.check(id)).toMatchObject({ status: "pending" });
  expect((await failure(ada.acceptAccount(id, "x"))).code).toBe("invalid_request");
  expect(await ada.disconnect("gmail", { instanceId: "work" })).toMatchObject({ status: "disconnected" });
});

test("maps problem responses to errors", async () => {
  const error = await failure((await client()).getConnector("no-such"));
  expect(error).toMatchObject({ status: 404, code: "connector_not_found", title: "There is no such connector" });
  expect(error.message).toBe(error.detail);
  expect(error.requestId).toMatch(/^[0-9a-f-]{36}$/);
  expect(error.transient).toBe(false);
  await faults({ hang_up: true, only: "POST /connect/sessions" });
  const down = await failure((await client()).connect("gmail"));
  expect(down).toMatchObject({ status: 503, code: "nango_unavailable", retryAfter: 5, transient: true });
});

test("distinguishes a foreign response from no response", async () => {
  const proxy = await Proxy.start();
  const ada = await client(proxy.url);
  proxy.fate = () => 502;
  expect(await failure(ada.listConnections())).toMatchObject({ status: 502, code: "unreadable", transient: true });
  proxy.fate = () => 200;
  expect(await failure(ada.listConnections())).toMatchObject({ code: "unreadable" });
  proxy.fate = () => "cut";
  expect(await failure(ada.listConnections())).toMatchObject({ status: 0, code: "network", transient: true });
  const giveUp = AbortSignal.abort();
  await expect(ada.listConnections({}, { signal: giveUp })).rejects.toMatchObject({ name: "AbortError" });
});

test("problem_of_another_program_is_an_outage_with_texts", async () => {
  const answer = (body: unknown, headers = {}) =>
    createClient({
      baseUrl: "http://patchbay.test",
      getToken: () => "token",
      fetch: () =>
        Promise.resolve(new Response(JSON.stringify(body), { status: 404, headers: { "content-type": "application/problem+json", ...headers } })),
    }).listConnections();
  for (const body of [null, [], "text", {}, { code: 42, title: {}, detail: [], request_id: 7, candidates: "x" }]) {
    const error = await failure(answer(body));
    expect(error).toMatchObject({ code: "unreadable", transient: true, candidates: undefined, requestId: undefined });
    expect([typeof error.detail, typeof error.title]).toEqual(["string", "string"]);
  }
});

test("page_that_repeats_ends_the_list", async () => {
  let requests = 0;
  const repeating = () => {
    requests += 1;
    return Promise.resolve({ next_cursor: "a" });
  };
  expect(await failure(allPages(repeating))).toMatchObject({ code: "unreadable" });
  expect(requests).toBe(2);
  const cursors = [undefined, "a", "b"];
  const pages = await allPages((cursor) => Promise.resolve({ next_cursor: cursors[cursors.indexOf(cursor) + 1] ?? null }));
  expect(pages).toHaveLength(3);
});

test("pause_that_a_response_asks_for_is_bounded", async () => {
  for (const [asked, taken] of [["99999999999", 300], ["7", 7], ["Wed, 21 Oct 2026 07:28:00 GMT", undefined]] as const) {
    const fetch = () => Promise.resolve(new Response("", { status: 503, headers: { "retry-after": asked } }));
    const error = await failure(createClient({ baseUrl: "http://patchbay.test", getToken: () => "token", fetch }).listConnections());
    expect(error.retryAfter).toBe(taken);
  }
});

test("refreshes a rejected token once, then reports an expired session", async () => {
  const good = await tokenFor(newUser());
  const asked: boolean[] = [];
  const tokens = { stale: "stale", fresh: good as string | null };
  const ada = createClient({
    baseUrl: inject("patchbay"),
    getToken: ({ fresh }) => {
      asked.push(fresh);
      return Promise.resolve(fresh ? tokens.fresh : tokens.stale);
    },
  });
  expect(await ada.listConnections()).toMatchObject({ total_count: 0 });
  expect(asked).toEqual([false, true]);
  const changes: boolean[] = [];
  ada.session.subscribe(() => changes.push(ada.session.expired));
  tokens.fresh = "stale, too";
  expect(await failure(ada.listConnections())).toMatchObject({ status: 401, code: "session_expired" });
  tokens.fresh = null;
  expect(await failure(ada.listConnections())).toMatchObject({ code: "session_expired" });
  tokens.fresh = good;
  await ada.listConnections();
  expect(changes).toEqual([true, false]);
});

test("token_of_another_user_ends_client_and_stream", async () => {
  const proxy = await Proxy.start();
  const [ada, bob] = [newUser(), newUser()];
  let token = await tokenFor(ada);
  const client = createClient({ baseUrl: proxy.url, getToken: () => token });
  const leave = client.events(() => {});
  await vi.waitFor(() => expect(client.stream.state).toBe("live"), 20_000);
  // A new token of the same user's is no change.
  token = await tokenFor(ada);
  await client.listConnections();
  expect(client.session.userChanged).toBe(false);
  token = await tokenFor(bob);
  expect((await failure(client.listConnections())).code).toBe("user_changed");
  await vi.waitFor(() => expect(proxy.streams).toBe(0), 20_000);
  expect(client.stream.state).toBe("expired");
  // The client serves no user any more, not even the first: the page may already show the data that it fetched.
  token = await tokenFor(ada);
  expect((await failure(client.listConnections())).code).toBe("user_changed");
  leave();
});

test("another_user_is_noticed_on_return_to_the_tab", async () => {
  const proxy = await Proxy.start();
  let token = await tokenFor(newUser());
  const client = createClient({ baseUrl: proxy.url, getToken: () => token });
  const leave = client.events(() => {});
  await vi.waitFor(() => expect(client.stream.state).toBe("live"), 20_000);
  token = await tokenFor(newUser());
  const asked = proxy.seen.length;
  document.dispatchEvent(new Event("visibilitychange"));
  await vi.waitFor(() => expect(proxy.streams).toBe(0), 20_000);
  expect(proxy.seen.length).toBe(asked);
  leave();
});

test("distinguishes an unavailable token from an expired session", async () => {
  const broken = createClient({
    baseUrl: inject("patchbay"),
    getToken: () => {
      throw new Error("the identity provider does not answer");
    },
  });
  const error = await failure(broken.listConnections());
  expect(error).toMatchObject({ code: "token_unavailable", message: "the identity provider does not answer" });
  expect(broken.session.expired).toBe(false);
});

test("starts one attempt when the response is lost", async () => {
  const proxy = await Proxy.start();
  const ada = await client(proxy.url);
  let lost = 0;
  proxy.fate = ({ method }) => (method === "POST" && (lost += 1) < 3 ? "lose" : "pass");
  const started = await ada.connect("gmail");
  expect(proxy.count(`POST /${GMAIL}/connect`)).toBe(3);
  const { events } = await ada.history(started.connection_id);
  expect(events.map((event) => event.kind)).toEqual(["attempt_started"]);
});

test("gateway_401_does_not_end_session", async () => {
  const proxy = await Proxy.start();
  const token = await tokenFor(newUser());
  const asked: boolean[] = [];
  const ada = createClient({
    baseUrl: proxy.url,
    getToken: ({ fresh }) => {
      asked.push(fresh);
      // As where a token is pasted by hand: there is no other.
      return fresh ? null : token;
    },
  });
  const json = { status: 401, type: "application/json", body: { code: "unauthenticated" } };
  for (const fate of [401, json] as const) {
    proxy.fate = () => fate;
    expect(await failure(ada.listConnections())).toMatchObject({ status: 401, code: "unreadable", transient: true });
  }
  expect(ada.session.expired).toBe(false);
  proxy.fate = () => "pass";
  await ada.listConnections();
  // A gateway that verifies tokens itself refuses old ones: a fresh one helps.
  const behind = createClient({ baseUrl: proxy.url, getToken: ({ fresh }) => (fresh ? token : "old") });
  let refused = false;
  proxy.fate = () => (refused ? "pass" : ((refused = true), 401));
  await behind.listConnections();
  expect(asked).toContain(true);
});

test.each<[string, unknown]>([
  ["an object of something else", { status: "ok" }],
  ["a list", []],
  ["nothing", null],
  ["a connection without its connector", { connections: [{ id: "1" }], total_count: 1 }],
  ["a date that is none", { connections: [{ ...CONNECTION, created_at: "yesterday" }], total_count: 1 }],
  ["a number for a text", { connections: [{ ...CONNECTION, instance_id: 7 }], total_count: 1 }],
])("other_json_is_unreadable: %s", async (_, body) => {
  const answer = () => Promise.resolve(Response.json(body));
  const ada = createClient({ baseUrl: "http://patchbay.test", getToken: () => "token", fetch: answer });
  expect(await failure(ada.listConnections())).toMatchObject({ status: 200, code: "unreadable", transient: true });
});

test("json_of_newer_service_is_read", async () => {
  const newer = { ...CONNECTION, status: "a newer status", something: { new: true } };
  const answer = () => Promise.resolve(Response.json({ connections: [newer], total_count: 1, extra: 1 }));
  const ada = createClient({ baseUrl: "http://patchbay.test", getToken: () => "token", fetch: answer });
  expect((await ada.listConnections()).connections).toHaveLength(1);
});

test("get_token_that_never_resolves_fails_the_request", async () => {
  const ada = createClient({ baseUrl: inject("patchbay"), getToken: () => new Promise<string>(() => {}) });
  const began = performance.now();
  expect(await failure(ada.listConnections())).toMatchObject({ code: "token_unavailable", transient: true });
  expect(performance.now() - began).toBeLessThan(15_000);
});

test("connect_is_repeated_through_a_restart", async () => {
  const proxy = await Proxy.start();
  const ada = await client(proxy.url);
  const end = performance.now() + 3_000;
  const keys = new Set<string>();
  const starting: Canned = {
    status: 503,
    type: "application/problem+json",
    body: { code: "starting", title: "", detail: "" },
    headers: { "retry-after": "1" },
  };
  proxy.fate = ({ method, idempotencyKey }) => {
    if (method !== "POST") return "pass";
    keys.add(idempotencyKey ?? "");
    return performance.now() < end ? starting : "pass";
  };
  expect(await ada.connect("gmail")).toMatchObject({ status: "pending" });
  expect(keys.size).toBe(1);
  expect(proxy.count(`POST /${GMAIL}/connect`)).toBeLessThanOrEqual(6);
});

test("connect_is_refused_after_ten_seconds", async () => {
  const proxy = await Proxy.start();
  const ada = await client(proxy.url);
  proxy.fate = () => 502;
  const began = performance.now();
  expect(await failure(ada.connect("gmail"))).toMatchObject({ status: 502, code: "unreadable" });
  expect(performance.now() - began).toBeLessThan(11_000);
  expect(proxy.seen.length).toBeLessThanOrEqual(12);
});

test("clock_of_the_service_counts", async () => {
  const late = Date.now() + 3_600_000;
  const answer = (date: number) => () =>
    Promise.resolve(Response.json({ connections: [], total_count: 0 }, { headers: { date: new Date(date).toUTCString() } }));
  const ada = createClient({ baseUrl: "http://patchbay.test", getToken: () => "token", fetch: answer(late) });
  expect(Math.abs(ada.now() - Date.now())).toBeLessThan(1_000);
  await ada.listConnections();
  expect(Math.abs(ada.now() - late)).toBeLessThan(5_000);
  // Seconds are no difference.
  const near = createClient({ baseUrl: "http://patchbay.test", getToken: () => "token", fetch: answer(Date.now() - 2_000) });
  await near.listConnections();
  expect(Math.abs(near.now() - Date.now())).toBeLessThan(100);
});

test("keeps the base path and calls no other host", async () => {
  const paths: string[] = [];
  const server = createServer((request, response) => {
    paths.push(request.url ?? "");
    response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(CONNECTION));
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const ada = createClient({ baseUrl: `http://127.0.0.1:${port}/patchbay/`, getToken: () => "token" });
  await ada.getConnection("a/../b");
  server.close();
  expect(paths).toEqual(["/patchbay/api/v1/connectors/connections/a%2F..%2Fb"]);
});

test("sends cross-origin cookies only when configured", async () => {
  const seen: unknown[] = [];
  const answer = (_: unknown, init?: RequestInit) => {
    seen.push(init?.credentials);
    return Promise.resolve(Response.json({ connections: [], total_count: 0, next_cursor: null }));
  };
  for (const credentials of [undefined, "include"] as const) {
    const options = { baseUrl: "https://connect.example.com", getToken: () => "token", fetch: answer as typeof fetch };
    await createClient({ ...options, credentials }).listConnections();
  }
  expect(seen).toEqual(["same-origin", "include"]);
});

/** Gmail's id in the catalog that is built in. */
const GMAIL = "2ca8a1b8-0995-578b-b87c-dc39f677e722";

test("connectors_are_addressed_by_id", async () => {
  const proxy = await Proxy.start();
  const ada = await client(proxy.url);
  expect(await ada.getConnector("gmail")).toMatchObject({ id: GMAIL, slug: "gmail" });
  expect(await ada.getConnector(GMAIL)).toMatchObject({ id: GMAIL, slug: "gmail" });
  const { connection_id: id } = await ada.connect("gmail");
  await ada.listConnections({ connector_id: "gmail" });
  await ada.disconnect("gmail", { connectionId: id });
  // An ad blocker that refuses the slug of this connector would refuse these.
  expect(proxy.seen.filter(({ path }) => path.includes("gmail"))).toEqual([]);
});
