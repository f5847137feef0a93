// What a server component of Next may import.
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import * as client from "@patchbay/client";
import * as react from "../../src/index.js";

test("index_exports_the_client_by_name", () => {
  expect(Object.keys(react)).toEqual(expect.arrayContaining(Object.keys(client)));
  expect(readFileSync(new URL("../../src/index.ts", import.meta.url), "utf8")).not.toMatch(/^export \*/m);
});
