import type { Client } from "../client.js";
import { ownError, PatchbayError } from "../error.js";
import { randomId } from "../random.js";
import type { ConnectAnswer, Connection } from "../types.js";
import type { FlowOptions } from "./flow.js";
import { judge } from "./judge.js";
import { FlowMemory, type Remembered } from "./memory.js";
import type { FlowAttempt, FlowState, FlowTarget, FlowWindow } from "./state.js";
import { Watch, type Watcher } from "./watch.js";
import { openWindow } from "./window.js";

export { FlowMemory } from "./memory.js";

/** How often to see whether the window is still open, in milliseconds. */
const GLANCE = 400;

/** A window that reads as closed sooner than this after it was sent on may as well have been cut off, in milliseconds. */
const CUT_OFF = 3_000;

/** How long the service may take to say where to send the window, in milliseconds, with all repetitions. */
const START_TIMEOUT = 60_000;

/** The keys of the starts in progress on this page that have a window. */
const withWindow = new Set<string>();

/** What an engine belongs to: the flow that others see. */
export interface EngineHost {
  readonly client: Client;
  target: FlowTarget;
  options: FlowOptions;
  state: FlowState;
  /** Changes the state, and calls the listeners. */
  set(state: FlowState): void;
  /** Reports a connection that is connected. */
  connected(connection: Connection): void;
  /** Reports a connection whose attempt the service has canceled. */
  canceled(connection: Connection): void;
}

/** The steps of a connect: the window, the requests, what is remembered, and the watch over the connection. */
export class FlowEngine {
  readonly #host: EngineHost;
  #disposed = false;
  #starts = 0;
  #key: string | undefined;
  #attempt: FlowAttempt | undefined;
  #window: Window | null = null;
  #asking: AbortController | undefined;
  #watch: Watch | undefined;
  #endGlances: (() => void) | undefined;
  #endEvents: (() => void) | undefined;
  #isReported = false;
  /** The starts that were canceled before the service answered. */
  readonly #canceled = new Set<number>();

  constructor(host: EngineHost) {
    this.#host = host;
  }

  /** The connection that is being authorized; undefined while none is known. */
  get connectionId(): string | undefined {
    return this.#attempt?.connectionId;
  }

  /** Starts an attempt with a window that is open already; without one, in the click itself. */
  start(opened?: Window | null): void {
    this.#rest();
    this.#open(opened);
    this.#begin(randomId(), "blocked");
  }

  /** Shows the window of the attempt in progress, or opens it again; starts a new attempt if this one has expired. */
  reopen(): void {
    const state = this.#host.state;
    if (state.phase !== "starting" && state.phase !== "waiting") return this.start();
    // A window that has left this origin cannot be closed from here, so a second one would stand beside it.
    if (this.#window && !this.#window.closed) return this.#window.focus();
    if (state.phase === "starting") {
      this.#open();
      return this.#host.set({ phase: "starting", window: this.#seen("blocked") });
    }
    const { attempt } = state;
    const inTime = !attempt.expiresAt || Date.parse(attempt.expiresAt) > this.#host.client.now();
    if (!inTime || !this.#key) return this.start();
    this.#open();
    // After a reload, a request with the same key returns the address again.
    if (attempt.oauthUrl) this.#sent(attempt, attempt.oauthUrl);
    else this.#begin(this.#key, "blocked");
  }

  /** Cancels the attempt in progress; it reports nothing afterwards. Clears one that has ended. */
  dismiss(): void {
    const attempt = this.#attempt;
    const { phase } = this.#host.state;
    const canceled = "window" in this.#host.state;
    if (phase === "starting") {
      // The service may have started the attempt. Its response contains the id to cancel.
      this.#canceled.add(this.#starts);
      this.#asking = undefined;
    }
    this.#forget();
    this.#host.set({ phase: "idle", canceled });
    if (phase === "waiting" && attempt) this.#cancel(attempt.connectionId, attempt.attemptId);
  }

  #cancel(connectionId: string, attemptId: string | null): void {
    // If the service is unreachable, the attempt expires.
    this.#host.client.cancel(connectionId, { attemptId }).then(
      (connection) => this.#host.canceled(connection),
      () => undefined,
    );
  }

  /** Continues what is in progress, from before a reload, too. */
  resume(): void {
    this.#disposed = false;
    if (this.#attempt) this.#look(this.#attempt);
    if (this.#host.state.phase === "waiting" && this.#window) this.#glance();
    if (this.#host.state.phase === "idle") void this.#host.client.user().then((user) => this.#recall(user));
  }

  /** Stops all timers and requests. What is in progress continues in the window, and `resume` finds it. */
  dispose(): void {
    this.#disposed = true;
    this.#rest();
  }

  #recall(user: string): void {
    const left = new FlowMemory(this.#host.client.base, user).read(this.#host.target);
    if (!left || this.#disposed || this.#host.state.phase !== "idle") return;
    const { connectionId, attemptId, expiresAt, idempotencyKey } = left;
    this.#isReported = false;
    // A reload preceded the response, and closed the window, unless the page is still the one that started it. Repeating the
    // request returns the same response.
    if (connectionId === null) return this.#begin(idempotencyKey, withWindow.has(idempotencyKey) ? "unknown" : "closed");
    this.#key = idempotencyKey;
    this.#attempt = { connectionId, attemptId, expiresAt, oauthUrl: null };
    this.#host.set({ phase: "waiting", attempt: this.#attempt, window: "unknown", trouble: null });
    this.#look(this.#attempt);
  }

  #remember(left: Omit<Remembered, "target"> | null): void {
    const target = this.#host.target;
    const write = (user: string) => new FlowMemory(this.#host.client.base, user).write(target, left && { target, ...left });
    const { user } = this.#host.client.session;
    if (user === undefined) void this.#host.client.session.identified.then(write);
    else write(user);
  }

  #open(opened?: Window | null): void {
    closeEmpty(this.#window);
    this.#window = opened === undefined ? openWindow(this.#host.options.words) : opened;
    if (!this.#disposed) this.#glance();
  }

  /** The visible state of the window. */
  #seen(none: FlowWindow): FlowWindow {
    if (!this.#window) return none;
    return this.#window.closed ? "closed" : "open";
  }

  /** `none` is the window's state if there is no window. */
  #begin(key: string, none: FlowWindow): void {
    this.#starts += 1;
    this.#key = key;
    this.#isReported = false;
    this.#remember({ idempotencyKey: key, connectionId: null, attemptId: null, expiresAt: null });
    // The event stream has to be open before the user can finish.
    if (!this.#disposed) this.#endEvents ??= this.#host.client.events(() => {});
    // Without this, the empty window would remain after the page is closed.
    const gone = () => {
      withWindow.delete(key);
      closeEmpty(this.#window);
    };
    window.addEventListener("pagehide", gone);
    if (this.#window) withWindow.add(key);
    // The click may have set it already.
    if (this.#host.state.phase !== "starting") this.#host.set({ phase: "starting", window: this.#seen(none) });
    void this.#ask(key, this.#starts).finally(() => {
      withWindow.delete(key);
      window.removeEventListener("pagehide", gone);
    });
  }

  async #ask(key: string, start: number): Promise<void> {
    const asking = new AbortController();
    this.#asking = asking;
    const signal = AbortSignal.any([asking.signal, AbortSignal.timeout(START_TIMEOUT)]);
    const options = { idempotencyKey: key, details: this.#host.options.details, signal };
    const target = this.#host.target;
    let answer: ConnectAnswer;
    let connection: Connection | undefined;
    try {
      answer =
        "connectionId" in target
          ? await this.#host.client.reconnect(target.connectionId, options)
          : await this.#host.client.connect(target.connectorId, { ...options, instanceId: target.instanceId });
      if (!answer.oauth_url) connection = await this.#host.client.getConnection(answer.connection_id, options);
      else if (!isWebAddress(answer.oauth_url)) throw new Error("oauth_url is not a web address");
    } catch (error) {
      if (start !== this.#starts) return void this.#canceled.delete(start);
      const otherDetails = error instanceof PatchbayError && error.code === "idempotency_key_reused";
      if (!otherDetails) return this.#refused(error);
      this.#key = randomId();
      return this.#ask(this.#key, start);
    }
    // The flow was dismissed or restarted meanwhile. A restart has replaced the window.
    if (start !== this.#starts) {
      if (this.#canceled.delete(start) && answer.attempt_id) this.#cancel(answer.connection_id, answer.attempt_id);
      return;
    }
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
    this.#remember({ connectionId, attemptId, expiresAt, idempotencyKey: key });
    // The watch starts before the window navigates, so that no change is missed.
    this.#look(attempt);
    this.#sent(attempt, url);
  }

  /** Navigates the window to `url`, and sets its visible state. */
  #sent(attempt: FlowAttempt, url: string): void {
    const seen = this.#seen(this.#host.state.phase === "starting" ? this.#host.state.window : "blocked");
    // `replace` keeps the empty page out of the window's history.
    if (seen === "open") this.#window?.location.replace(url);
    this.#host.set({ phase: "waiting", attempt, window: seen, trouble: null });
    if (seen === "open" && !this.#disposed) this.#glance();
  }

  /** Polls the window until it is closed. */
  #glance(): void {
    this.#endGlances?.();
    const since = Date.now();
    const look = () => {
      const state = this.#host.state;
      if (!this.#window?.closed || !("window" in state)) return;
      this.#endGlances?.();
      const cutOff = state.phase === "waiting" && Date.now() - since < CUT_OFF;
      this.#host.set({ ...state, window: cutOff ? "unknown" : "closed" });
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
      seen: (connection) => this.#judged(connection, attempt),
      troubled: (error) => {
        if (this.#host.state.phase === "waiting" && this.#host.state.trouble !== error) this.#host.set({ ...this.#host.state, trouble: error });
      },
      // After a reload, the stored attempt may have been deleted at the service.
      gone: (error) => {
        if (attempt.oauthUrl) return this.#refused(error);
        this.#forget();
        this.#host.set({ phase: "idle" });
      },
    };
    // The new watch starts before the old one stops, so that the event stream stays open.
    const watch = new Watch(this.#host.client, attempt.connectionId, watcher, this.#host.options.times);
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

  /** Returns `true` while the attempt is pending. */
  #judged(connection: Connection, attempt: FlowAttempt): boolean {
    const verdict = judge(connection, attempt.attemptId);
    const waiting = this.#host.state.phase === "waiting";
    // After a failure is reported, only a later success is reported.
    if (verdict.phase === "pending" || (!waiting && verdict.phase !== "connected")) return waiting;
    if (verdict.phase === "connected" || verdict.phase === "canceled") {
      this.#attempt = undefined;
      this.#rest();
    }
    this.#remember(null);
    this.#closeWindow();
    this.#host.set(verdict);
    if (verdict.phase === "connected") this.#tell(connection);
    return false;
  }

  #already(connection: Connection): void {
    this.#forget();
    this.#host.set({ phase: "connected", connection, alreadyConnected: true });
    this.#tell(connection);
  }

  #tell(connection: Connection): void {
    if (this.#isReported) return;
    this.#isReported = true;
    this.#host.connected(connection);
  }

  #refused(cause: unknown): void {
    this.#forget();
    const late = cause instanceof DOMException;
    const own = () => ownError(late ? "network" : "unreadable", String(cause), cause);
    this.#host.set({ phase: "refused", error: cause instanceof PatchbayError ? cause : own() });
  }

  #forget(): void {
    this.#starts += 1;
    this.#asking?.abort();
    this.#rest();
    this.#attempt = undefined;
    this.#remember(null);
    this.#closeWindow();
  }

  #closeWindow(): void {
    this.#endGlances?.();
    closeEmpty(this.#window);
    this.#window = null;
  }

  #rest(): void {
    this.#watch?.stop();
    this.#watch = undefined;
    this.#endGlances?.();
    this.#endEvents?.();
  }
}

/** An address that a window may be sent to: anything but http(s) would run in our own page's name. */
function isWebAddress(url: string): boolean {
  return URL.canParse(url) && ["https:", "http:"].includes(new URL(url).protocol);
}

/** Closes a window that is still an empty one of this origin. Of any other, a browser reports the attempt as an error. */
function closeEmpty(opened: Window | null): void {
  try {
    if (opened?.document) opened.close();
  } catch {
    // It has left this origin.
  }
}
