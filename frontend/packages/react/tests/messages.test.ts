// What end users read.
import { expect, test } from "vitest";
import { defaultMessages } from "../src/index.js";

/** All texts of a group of messages, with sample values. */
function texts(messages: object): string[] {
  return Object.values(messages).flatMap((message: unknown) => {
    if (typeof message === "string") return [message];
    if (typeof message === "function") return [String((message as (...given: unknown[]) => unknown)("Name", new Date(0)))];
    return texts(message as object);
  });
}

// Two messages take other values than names.
const { time: _, parameterError: __, ...others } = defaultMessages;

test("messages_name_no_backend_and_no_version", () => {
  for (const text of texts(others)) expect(text).not.toMatch(/nango|oauth|webhook|\d{4}-\d{2}/i);
});

test("messages_use_one_name_for_one_action", () => {
  for (const text of texts(others)) expect(text).not.toMatch(/reauthori[sz]e|log ?in|relink|unlink/i);
});
