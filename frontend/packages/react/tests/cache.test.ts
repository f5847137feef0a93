import { QueryClient } from "@tanstack/react-query";
import { expect, test, vi } from "vitest";
import type { Client, Connection } from "../src/index.js";
import { Cache } from "../src/react/cache.js";

test("new_connections_are_announced_once_for_a_list", async () => {
  const connections = Array.from({ length: 300 }, (_, number) => ({ id: String(number), version: 1, updated_at: "" }) as Connection);
  const client = { listConnections: () => Promise.resolve({ connections, total_count: 300 }) } as unknown as Client;
  const cache = new Cache(client, new QueryClient(), "");
  cache.onNew = vi.fn();
  await cache.fetchConnections(new AbortController().signal);
  await Promise.resolve();
  expect(cache.onNew).toHaveBeenCalledTimes(1);
});
