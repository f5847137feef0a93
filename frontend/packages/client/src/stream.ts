import type { Http } from "./http.js";
import { backoff } from "./backoff.js";
import type { PatchbayError } from "./error.js";
import type { Notice, StreamHub, StreamState, StreamTimes } from "./events.js";
import { fits } from "./shape.js";
import { SseParser, type SseMessage } from "./sse.js";
import { Tabs } from "./tabs.js";
import type { ConnectionEvent } from "./types.js";

/** A message from the tab with the stream to the others. A tab without a stream posts null, and receives a reply. */
interface Post {
  notice?: Notice;
  state: StreamState;
  /** The last event's id, and the one before this post. */
  id: string | undefined;
  before: string | undefined;
  /** When the tab with the stream received its last notice: `Date.now()`. */
  at: number;
}

/**
 * Reads the user's event stream until it is stopped.
 *
 * `fetch` reads the stream, because the token belongs in a header. A new stream resumes after the last event that was read,
 * so that none is missed. While the stream is unavailable, listeners are notified to poll.
 *
 * One tab reads the stream and posts the events to the others. When it is closed, or has been hidden for a while,
 * another one resumes after the last event. A tab that receives nothing polls.
 */
export class StreamReader {
  readonly #http: Http;
  readonly #times: StreamTimes;
  readonly #hub: StreamHub;
  readonly #stopped: AbortSignal;
  /** Of the wait for the lead. */
  #waiting: AbortController | undefined;
  #reading: AbortController | undefined;
  #lastId: string | undefined;
  /** When the last notice was received, by whichever tab has the stream: `Date.now()`. */
  #noticedAt = 0;
  #retry = 1_000;
  #failures = 0;
  /** How long the service asks to wait after the last failure, in milliseconds. */
  #asked = 0;
  #wake: (() => void) | undefined;
  #paused = false;
  #leading = false;
  /** Runs while another tab's stream is followed. */
  #following: ReturnType<typeof setTimeout> | undefined;

  /** `stopped` ends it. */
  constructor(http: Http, times: StreamTimes, hub: StreamHub, stopped: AbortSignal) {
    this.#http = http;
    this.#times = times;
    this.#hub = hub;
    this.#stopped = stopped;
  }

  /** Starts reading. */
  start(): void {
    const session = () => {
      // The stream belongs to the user whose token opened it.
      if (this.#http.session.userChanged) this.#reading?.abort();
      this.#hurry();
    };
    const ends = [this.#http.session.subscribe(session), this.#watchPage(), this.#poll()];
    this.#stopped.addEventListener("abort", () => {
      for (const end of ends) end();
      this.#reading?.abort();
      this.#hurry();
      clearTimeout(this.#following);
      this.#hub.tabs?.close();
      this.#hub.tabs = undefined;
    });
    void this.#loop();
  }

  /** Posts the state to the other tabs, if this one has the stream. */
  #post(notice?: Notice, before = this.#lastId): void {
    if (!this.#leading || !this.#hub.tabs) return;
    const post: Post = { state: this.#hub.state, id: this.#lastId, before, at: this.#noticedAt };
    this.#hub.tabs.post(notice ? { ...post, notice } : post);
  }

  /** Ends a wait. */
  #hurry(): void {
    this.#waiting?.abort();
    this.#wake?.();
  }

  async #loop(): Promise<void> {
    while (!this.#stopped.aborted) {
      if (this.#http.session.expired) {
        this.#hub.become("expired");
        await this.#sleep(undefined);
      } else if (this.#paused) {
        await this.#sleep(undefined);
      } else {
        await this.#join();
        if (!this.#stopped.aborted) await this.#lead();
      }
    }
  }

  /** Listens to the user's other tabs once the user is known. A token without a subject does not identify a user. */
  async #join(): Promise<void> {
    await this.#http.compareUser();
    const { user } = this.#http.session;
    if (this.#hub.tabs || !user || this.#stopped.aborted) return;
    const tabs = await Tabs.open(`${this.#http.base.href} ${user}`);
    if (this.#stopped.aborted) return tabs?.close();
    this.#hub.tabs = tabs;
    tabs?.listen((message) => {
      if (message === null) this.#post();
      else if ("state" in (message as object)) this.#follow(message as Post);
    });
    tabs?.post(null);
  }

  /** Reads the stream while no other tab does. */
  async #lead(): Promise<void> {
    const { tabs } = this.#hub;
    if (!tabs) return this.#readOn();
    this.#waiting = new AbortController();
    const stalled = setTimeout(() => this.#hub.state === "connecting" && this.#stall(), this.#times.stall);
    const work = async () => {
      clearTimeout(stalled);
      clearTimeout(this.#following);
      this.#following = undefined;
      this.#leading = true;
      this.#post();
      await this.#readOn();
      this.#leading = false;
    };
    await tabs.lead(work, this.#waiting.signal).catch(() => undefined);
    clearTimeout(stalled);
  }

  /** Reads the stream again and again, or once while there is no knowing of other tabs. */
  async #readOn(): Promise<void> {
    do {
      const worked = await this.#read();
      if (this.#stopped.aborted) return;
      this.#failures = worked ? 0 : this.#failures + 1;
      if (this.#http.session.expired) return;
      this.#hub.become("polling");
      this.#post();
      if (!this.#paused) await this.#sleep(this.#pause());
    } while (this.#hub.tabs && !this.#stopped.aborted && !this.#paused && !this.#http.session.expired);
  }

  #pause(): number {
    const { first, longest } = this.#times;
    return this.#failures === 0 ? backoff(1, this.#retry, longest) : Math.max(this.#asked, backoff(this.#failures, first, longest));
  }

  #sleep(milliseconds: number | undefined): Promise<void> {
    return new Promise((resolve) => {
      const timer = milliseconds === undefined ? undefined : setTimeout(() => this.#wake?.(), milliseconds);
      this.#wake = () => {
        clearTimeout(timer);
        this.#wake = undefined;
        resolve();
      };
    });
  }

  /** Reads one stream to its end. Whether it was one. */
  async #read(): Promise<boolean> {
    const reading = new AbortController();
    this.#reading = reading;
    let ready = false;
    let silence: ReturnType<typeof setTimeout> | undefined;
    const alive = () => {
      clearTimeout(silence);
      silence = setTimeout(() => {
        if (ready) this.#stall();
        reading.abort();
      }, this.#times.silence);
    };
    // It is read on: what a proxy holds back it may deliver later.
    const stalled = setTimeout(() => this.#stall(), this.#times.stall);
    try {
      alive();
      const headers: Record<string, string> = { accept: "text/event-stream" };
      if (this.#lastId !== undefined) headers["last-event-id"] = this.#lastId;
      const response = await this.#http.open("/connections/events", { headers, signal: reading.signal });
      const reader = response.body?.getReader();
      const decoder = new TextDecoder();
      const parser = new SseParser();
      for (;;) {
        const chunk = await reader?.read();
        if (!chunk || chunk.done || this.#stopped.aborted) return ready;
        alive();
        for (const message of parser.push(decoder.decode(chunk.value, { stream: true }))) {
          if (message.event === "ready") {
            ready = true;
            clearTimeout(stalled);
          }
          this.#take(message);
        }
        this.#post();
      }
    } catch (error) {
      // Whatever it was, coming again later is the answer; an expired session is known to the session.
      this.#asked = ((error as Partial<PatchbayError>).retryAfter ?? 0) * 1_000;
      return ready;
    } finally {
      clearTimeout(silence);
      clearTimeout(stalled);
      reading.abort();
    }
  }

  #take(message: SseMessage): void {
    const before = this.#lastId;
    if (message.id !== undefined) this.#lastId = message.id;
    if (message.retry !== undefined) this.#retry = message.retry;
    let notice: Notice | undefined;
    if (message.event === "ready") {
      this.#hub.become("live");
      // What was read before the stream began may be out of date by what happened in between. The service says whether it
      // goes on after the last event; it does not where it has no such event any more, as after a restored backup.
      const { resumed = before !== undefined } = JSON.parse(message.data) as { resumed?: boolean };
      if (!resumed) notice = { type: "resync", reason: before === undefined ? "start" : "lost" };
    } else if (message.event === "connection") {
      const event: unknown = JSON.parse(message.data);
      if (fits(event, "ConnectionEvent")) notice = { type: "event", event: event as ConnectionEvent };
    }
    if (!notice) return;
    this.#tell(notice);
    this.#post(notice, before);
  }

  /** Calls the listeners. `at` is when the notice was received, if by another tab. */
  #tell(notice: Notice, at = Date.now()): void {
    this.#noticedAt = at;
    this.#hub.tabs?.changed(at, notice.type === "event" ? notice.event.connection_id : undefined);
    this.#hub.tell(notice);
  }

  /** Takes what the tab with the stream posts. */
  #follow({ notice, state, id, before, at }: Post): void {
    // What is still on its way from the tab that had the stream before is read again.
    if (this.#leading) return;
    const missed = this.#lastId !== (notice ? before : id);
    this.#lastId = id;
    clearTimeout(this.#following);
    this.#following = setTimeout(() => {
      this.#following = undefined;
      this.#stall();
    }, this.#times.silence);
    this.#hub.become(state);
    if (notice) this.#tell(notice, at);
    if (missed && notice?.type !== "resync") this.#tell({ type: "resync", reason: "start" });
  }

  /** Polls at once, and goes on doing so. */
  #stall(): void {
    this.#hub.become("polling");
    this.#resync();
  }

  #resync(): void {
    const notice: Notice = { type: "resync", reason: "poll" };
    if (this.#paused) return;
    this.#tell(notice);
    this.#post(notice);
  }

  /** Says to look again, while there is no stream, unless another tab does. */
  #poll(): () => void {
    const timer = setInterval(() => {
      if (this.#hub.state !== "live" && this.#hub.state !== "expired" && !this.#following) this.#resync();
    }, this.#times.poll);
    return () => clearInterval(timer);
  }

  /** Comes again at once when the page is seen again or the network is back. */
  #watchPage(): () => void {
    if (typeof document === "undefined") return () => {};
    let timer: ReturnType<typeof setTimeout> | undefined;
    const seen = () => {
      clearTimeout(timer);
      if (document.visibilityState === "hidden") {
        timer = setTimeout(() => {
          this.#paused = true;
          this.#waiting?.abort();
          this.#reading?.abort();
        }, this.#times.hidden);
      } else {
        this.#paused = false;
        this.#wake?.();
        // Another user may have signed in meanwhile, in another tab. No request may follow that would notice.
        void this.#http.compareUser();
      }
    };
    // A tab that was opened in the background has never been seen.
    if (document.visibilityState === "hidden") seen();
    const online = () => this.#wake?.();
    document.addEventListener("visibilitychange", seen);
    window.addEventListener("online", online);
    return () => {
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
      window.removeEventListener("online", online);
    };
  }
}
