/** One message of an event stream. */
export interface SseMessage {
  event: string;
  data: string;
  /** The id that stands after this message; undefined if none was ever sent. */
  id: string | undefined;
  /** How soon to come again after the stream's end, in milliseconds, if the stream has said. */
  retry: number | undefined;
}

/**
 * Takes a text/event-stream apart (HTML standard, 9.2), wherever the chunks are cut. `TextDecoder` removes the byte order mark.
 * Messages without data are not returned, but their id and retry values apply.
 */
export class SseParser {
  #buffer = "";
  #event = "";
  #data: string[] = [];
  #id: string | undefined;
  #retry: number | undefined;

  /** The messages that this chunk completes. */
  push(chunk: string): SseMessage[] {
    // A carriage return at the very end may be half of a line's end.
    const lines = (this.#buffer + chunk).split(/\r\n|\n|\r(?=[^])/);
    this.#buffer = lines.pop() ?? "";
    return lines.map((line) => this.#line(line)).filter((message) => message !== undefined);
  }

  #line(line: string): SseMessage | undefined {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.#event = value;
    else if (field === "data") this.#data.push(value);
    else if (field === "id" && !value.includes("\0")) this.#id = value;
    else if (field === "retry" && /^\d+$/.test(value)) this.#retry = Number(value);
    return undefined;
  }

  #dispatch(): SseMessage | undefined {
    const data = this.#data.join("\n");
    const event = this.#event || "message";
    const hasData = this.#data.length > 0;
    this.#data = [];
    this.#event = "";
    return hasData ? { event, data, id: this.#id, retry: this.#retry } : undefined;
  }
}
