// The built package in a Node service: no window, no document, no location.
import { createClient, type Notice } from "@patchbay/client";
import { createRequire } from "node:module";
import { expect, inject, test, vi } from "vitest";
import { newUser, tokenFor } from "../support/nango.js";

test("client_works_in_node", async () => {
  expect(typeof document).toBe("undefined");
  const token = await tokenFor(newUser());
  const client = createClient({ baseUrl: inject("patchbay"), getToken: () => token });
  const notices: Notice[] = [];
  const leave = client.events((notice) => notices.push(notice));
  await vi.waitFor(() => expect(client.stream.state).toBe("live"), 20_000);
  const { connection_id: id, oauth_url } = await client.connect("gmail");
  expect(oauth_url).toMatch(/^http/);
  const started = () => notices.some((notice) => notice.type === "event" && notice.event.connection_id === id);
  await vi.waitFor(() => expect(started()).toBe(true), 20_000);
  expect((await client.listConnections()).connections.map((one) => one.id)).toEqual([id]);
  leave();
  expect(client.stream.state).toBe("idle");
});

test("package_is_loaded_by_require", () => {
  const required = createRequire(import.meta.url)("@patchbay/client") as typeof import("@patchbay/client");
  expect(required.createClient).toBeTypeOf("function");
});
