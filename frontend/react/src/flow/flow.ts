import type { Client } from "../client/client.js";
import { PatchbayError } from "../client/error.js";
import { randomId } from "../client/random.js";
import type { ConnectAnswer, ConnectDetails, Connection } from "../types.js";
import { FlowMemory } from "./memory.js";
import { judge, type FlowAttempt, type FlowState, type FlowWindow } from "./state.js";
import { Watch, type Watcher, type WatchTimes } from "./watch.js";
import { isWebAddress, navigate, openWindow, type WindowWords } from "./window.js";

/** What to connect: an account of a connector (by slug or id), or a connection again. */
export type FlowTarget = { connectorId: string; instanceId?: string | undefined } | { connectionId: string };

/** How to connect. */
export interface FlowOptions {
  /** What is said with the connect. */
  details?: ConnectDetails | undefined;
  /** Called once for each connect that ends connected. */
  onConnected?: ((connection: Connection) => void) | undefined;
  /** What the window shows until it is sent to the provider. */
  words?: WindowWords | undefined;
  /** Other waiting times, for tests. */
  times?: WatchTimes | undefined;
}

const WORDS: WindowWords = { title: "Connecting…", text: "Connecting…" };

/** How often to see whether the window is still open, in milliseconds. */
const GLANCE = 400;

/** A window that reads as closed sooner than this after it was sent on may as well have been cut off, in milliseconds. */
const CUT_OFF = 3_000;

/**
 * One connect, from the click to the end. Only the service says whether it is connected; a window that closes is a reason
 * to query the service at once.
 *
 * `resume` and `dispose` come in pairs, as often as one likes; `start` and `reopen` belong in a click.
 */
export class ConnectFlow {
  readonly #client: Client;
  readonly #target: FlowTarget;
  readonly #memory: FlowMemory;
  readonly #listeners = new Set<() => void>();
  /** May be replaced between clicks. */
  options: FlowOptions;
  #state: FlowState = { phase: "idle" };
  #disposed = false;
  #starts = 0;
  #key: string | undefined;
  #attempt: FlowAttempt | undefined;
  #window: Window | null = null;
  #watch: Watch | undefined;
  #endGlances: (() => void) | undefined;
  #endEvents: (() => void) | undefined;
  #told = false;

  constructor(client: Client, target: FlowTarget, options: FlowOptions = {}) {
    this.#client = client;
    this.#target = target;
    this.options = options;
    this.#memory = new FlowMemory(
      "connectionId" in target ? target.connectionId : `${target.connectorId}:${target.instanceId ?? ""}`,
    );
  }

  /** Where it stands. */
  get state(): FlowState {
    return this.#state;
  }

  /** Calls `listener` at every change; the answer ends that. */
  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Begins, or begins again. Opens the window, so it has to be called in the click itself. */
  start(): void {
    if (this.#state.phase === "starting") return;
    this.#begin(randomId());
  }

  /** Shows the window of the attempt in progress, or opens it again; starts a new attempt if this one has expired. */
  reopen(): void {
    if (this.#state.phase !== "waiting") return this.start();
    const { attempt } = this.#state;
    const inTime = !attempt.expiresAt || Date.parse(attempt.expiresAt) > Date.now();
    if (!inTime || !this.#key) return this.start();
    // After a reload the key brings the address again.
    if (!attempt.oauthUrl) return this.#begin(this.#key);
    // A window that has left this origin cannot be closed from here, so a second one would stand beside it.
    if (this.#window && !this.#window.closed) return this.#window.focus();
    this.#window = openWindow(this.options.words ?? WORDS);
    this.#sent(attempt, attempt.oauthUrl);
  }

  /** Says that the user has followed a link to `oauthUrl`: the window is open, but not ours to see. */
  followed(): void {
    if (this.#state.phase === "waiting") this.#set({ ...this.#state, window: "unknown" });
  }

  /** Forgets it. What the user still does in the window counts all the same. */
  dismiss(): void {
    this.#starts += 1;
    this.#forget();
    this.#closeWindow();
    this.#set({ phase: "idle" });
  }

  /** Goes on with what is under way, from before a reload, too. */
  resume(): void {
    this.#disposed = false;
    if (this.#state.phase === "idle") {
      const left = this.#memory.read();
      if (!left) return;
      const { connectionId, attemptId, expiresAt } = left;
      this.#key = left.idempotencyKey;
      this.#attempt = { connectionId, attemptId, expiresAt, oauthUrl: null };
      this.#told = false;
      this.#set({ phase: "waiting", attempt: this.#attempt, window: "unknown", trouble: null });
    }
    if (this.#attempt) this.#look(this.#attempt);
    if (this.#state.phase === "waiting" && this.#window) this.#glance(this.#window, Date.now());
  }

  /** Stops all timers and requests. What is under way goes on in the window, and `resume` finds it. */
  dispose(): void {
    this.#disposed = true;
    this.#rest();
  }

  #set(state: FlowState): void {
    this.#state = state;
    for (const listener of [...this.#listeners]) listener();
  }

  #begin(key: string): void {
    this.#starts += 1;
    const start = this.#starts;
    this.#rest();
    this.#key = key;
    this.#told = false;
    this.#window?.close();
    this.#window = openWindow(this.options.words ?? WORDS);
    // The event stream is to be there before the user can be done.
    if (!this.#disposed) this.#endEvents = this.#client.events(() => {});
    this.#set({ phase: "starting" });
    void this.#ask(key, start);
  }

  async #ask(key: string, start: number): Promise<void> {
    const options = { idempotencyKey: key, details: this.options.details };
    const target = this.#target;
    let answer: ConnectAnswer;
    let connection: Connection | undefined;
    try {
      answer =
        "connectionId" in target
          ? await this.#client.reconnect(target.connectionId, options)
          : await this.#client.connect(target.connectorId, { ...options, instanceId: target.instanceId });
      if (!answer.oauth_url) connection = await this.#client.getConnection(answer.connection_id);
      else if (!isWebAddress(answer.oauth_url)) throw notAnAddress();
    } catch (error) {
      if (start !== this.#starts) return;
      const otherDetails = error instanceof PatchbayError && error.code === "idempotency_key_reused";
      if (!otherDetails) return this.#refused(error);
      this.#key = randomId();
      return this.#ask(this.#key, start);
    }
    // Dismissed meanwhile, or begun anew, which has taken the window.
    if (start !== this.#starts) return;
    if (connection) return this.#already(connection);
    this.#under(answer, key);
  }

  #under(answer: ConnectAnswer, key: string): void {
    const url = answer.oauth_url ?? "";
    const attempt: FlowAttempt = {
      connectionId: answer.connection_id,
      attemptId: answer.attempt_id ?? null,
      expiresAt: answer.expires_at ?? null,
      oauthUrl: url,
    };
    this.#attempt = attempt;
    const { connectionId, attemptId, expiresAt } = attempt;
    this.#memory.write({ connectionId, attemptId, expiresAt, idempotencyKey: key });
    // Asked before the window is sent on: whatever happens there, somebody is already listening.
    this.#look(attempt);
    this.#sent(attempt, url);
  }

  /** Sends the window on, and says what can be seen of it. */
  #sent(attempt: FlowAttempt, url: string): void {
    this.#endGlances?.();
    const opened = this.#window;
    let seen: FlowWindow = "blocked";
    if (opened) {
      seen = opened.closed ? "closed" : "open";
      if (seen === "open") navigate(opened, url);
    }
    this.#set({ phase: "waiting", attempt, window: seen, trouble: null });
    if (opened && seen === "open" && !this.#disposed) this.#glance(opened, Date.now());
  }

  /** Looks whether the window is still there, until it is not. */
  #glance(opened: Window, since: number): void {
    this.#endGlances?.();
    const look = () => {
      if (!opened.closed || this.#state.phase !== "waiting") return;
      this.#endGlances?.();
      this.#set({ ...this.#state, window: Date.now() - since < CUT_OFF ? "unknown" : "closed" });
      this.#watch?.returned();
    };
    const timer = setInterval(look, GLANCE);
    window.addEventListener("focus", look);
    this.#endGlances = () => {
      clearInterval(timer);
      window.removeEventListener("focus", look);
      this.#endGlances = undefined;
    };
  }

  #look(attempt: FlowAttempt): void {
    if (this.#disposed) return;
    const watcher: Watcher = {
      seen: (connection) => this.#seen(connection, attempt),
      troubled: (error) => {
        if (this.#state.phase === "waiting" && this.#state.trouble !== error) this.#set({ ...this.#state, trouble: error });
      },
      // What a reload has left of another user's is nothing to tell this one.
      gone: (error) => (attempt.oauthUrl ? this.#refused(error) : this.dismiss()),
    };
    // Before the old one ends, or the event stream would, too.
    const watch = new Watch(this.#client, attempt.connectionId, watcher, this.options.times);
    this.#watch?.stop();
    this.#endEvents?.();
    this.#watch = watch;
    const back = () => {
      if (document.visibilityState === "visible") watch.returned();
    };
    document.addEventListener("visibilitychange", back);
    this.#endEvents = () => {
      document.removeEventListener("visibilitychange", back);
      this.#endEvents = undefined;
    };
  }

  /** Whether there is more to wait for. */
  #seen(connection: Connection, attempt: FlowAttempt): boolean {
    const verdict = judge(connection, attempt.attemptId);
    const waiting = this.#state.phase === "waiting";
    // Once it is told how it failed, only that it is connected after all is news.
    if (verdict.phase === "pending" || (!waiting && verdict.phase !== "connected")) return waiting;
    if (verdict.phase === "connected") {
      this.#attempt = undefined;
      this.#rest();
    }
    this.#memory.clear();
    if (waiting) this.#closeWindow();
    this.#set(verdict);
    if (verdict.phase === "connected") this.#tell(connection);
    return false;
  }

  #already(connection: Connection): void {
    this.#forget();
    this.#closeWindow();
    this.#set({ phase: "connected", connection, alreadyConnected: true });
    this.#tell(connection);
  }

  #tell(connection: Connection): void {
    if (this.#told) return;
    this.#told = true;
    this.options.onConnected?.(connection);
  }

  #refused(cause: unknown): void {
    const error = cause instanceof PatchbayError ? cause : broken(cause);
    this.#forget();
    this.#closeWindow();
    this.#set({ phase: "refused", error });
  }

  #forget(): void {
    this.#rest();
    this.#attempt = undefined;
    this.#memory.clear();
  }

  #rest(): void {
    this.#watch?.stop();
    this.#watch = undefined;
    this.#endGlances?.();
    this.#endEvents?.();
  }

  #closeWindow(): void {
    this.#window?.close();
    this.#window = null;
  }
}

function notAnAddress(): PatchbayError {
  const title = "The answer makes no sense";
  return new PatchbayError({ status: 200, code: "unreadable", title, detail: "oauth_url is not a web address" });
}

function broken(cause: unknown): PatchbayError {
  const detail = cause instanceof Error ? cause.message : String(cause);
  return new PatchbayError({ status: 0, code: "unreadable", title: "The connect broke", detail, cause });
}

/** A connect of its own, for those who do without React. */
export function connectFlow(client: Client, target: FlowTarget, options?: FlowOptions): ConnectFlow {
  return new ConnectFlow(client, target, options);
}
