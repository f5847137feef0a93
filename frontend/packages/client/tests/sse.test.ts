import { expect, test } from "vitest";
import { SseParser } from "../src/sse.js";

const TEXT = "event: ready\nid: 7\nretry: 1000\ndata: {}\n\n: alive\n\nevent: connection\r\nid: 8\r\ndata: a\r\ndata:b\r\n\r\ndata\n\n";

test("parses events across chunk boundaries", () => {
  const whole = new SseParser().push(TEXT);
  expect(whole).toEqual([
    { event: "ready", data: "{}", id: "7", retry: 1000 },
    { event: "connection", data: "a\nb", id: "8", retry: 1000 },
    { event: "message", data: "", id: "8", retry: 1000 },
  ]);
  for (let size = 1; size < 9; size += 1) {
    const parser = new SseParser();
    const messages = [];
    for (let at = 0; at < TEXT.length; at += size) messages.push(...parser.push(TEXT.slice(at, at + size)));
    expect(messages).toEqual(whole);
  }
});

test("emits events only after a blank line and with data", () => {
  const parser = new SseParser();
  expect(parser.push("event: connection\nid: 3\n\ndata: x\n")).toEqual([]);
  expect(parser.push("\n")).toEqual([{ event: "message", data: "x", id: "3", retry: undefined }]);
});
