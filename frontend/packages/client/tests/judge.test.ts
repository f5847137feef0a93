import { expect, test } from "vitest";
import type { Attempt, Connection } from "../src/index.js";
import { judge } from "../src/flow/judge.js";

const OURS = "0193-ours";

function connection(fields: Partial<Connection>, attempt: Partial<Attempt> | null): Connection {
  return { status: "pending", ...fields, attempt: attempt && { id: OURS, outcome: null, ...attempt } } as Connection;
}

test.each<[string, Partial<Connection>, Partial<Attempt> | null]>([
  ["pending", {}, {}],
  // A reconnect: the connection remains usable.
  ["pending", { status: "connected" }, {}],
  ["connected", { status: "connected" }, { outcome: "succeeded" }],
  ["connected", { status: "connected" }, { id: "another's", outcome: "succeeded" }],
  // This attempt was authorized although a newer one had been started.
  ["connected", { status: "connected" }, { id: "another's", outcome: "superseded" }],
  ["connected", { status: "connected" }, null],
  // The user kept the other account.
  ["connected", { status: "connected" }, { outcome: "failed", error_code: "account_mismatch" }],
  ["denied", { status: "connected" }, { outcome: "failed", error_code: "authorization_denied" }],
  ["denied", { status: "error" }, { outcome: "failed", error_code: "authorization_denied" }],
  ["failed", { status: "error" }, { outcome: "failed", error_code: "authorization_failed" }],
  ["failed", { status: "error" }, { outcome: "failed", error_code: "nango_unavailable" }],
  ["expired", { status: "error" }, { outcome: "expired", error_code: "attempt_expired" }],
  ["account_mismatch", { status: "error" }, { outcome: "failed", error_code: "account_mismatch" }],
  ["superseded", {}, { id: "another's" }],
  ["superseded", { status: "error" }, { id: "another's", outcome: "failed", error_code: "authorization_denied" }],
  ["superseded", {}, { outcome: "superseded" }],
  ["canceled", { status: "disconnected", status_reason: "removed" }, { outcome: "canceled" }],
  ["canceled", { status: "connected" }, { outcome: "canceled" }],
  ["superseded", { status: "pending" }, { id: "another's", outcome: "canceled" }],
  ["disconnected", { status: "disconnected", status_reason: "user_disconnected" }, { outcome: "superseded" }],
])("%s: %o with %o", (phase, fields, attempt) => {
  expect(judge(connection(fields, attempt), OURS).phase).toBe(phase);
});
