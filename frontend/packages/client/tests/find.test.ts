import { expect, test } from "vitest";
import { nameOf, plain } from "../src/find.js";
import type { Connection } from "../src/types.js";

test("text_without_a_visible_character_is_no_name", () => {
  for (const text of [null, "", " \n", "\u200B", "\u3164", "\u202E\u2069", "\uFE0F\u00AD"]) expect(plain(text)).toBeNull();
  for (const text of ["0", ".", "\u{1F469}\u200D\u{1F467}", "a\u200Bb"]) expect(plain(text)).toBe(text);
  expect(plain("\u202Eevil")).toBe("evil");
  const connection = { label: "\u200B", account: { id: "7", name: "\u3164" }, connector_name: "Gmail" } as Connection;
  expect(nameOf(connection)).toBe("7");
});
