import type { Client } from "../client.js";
import { ownError } from "../error.js";
import { Listeners } from "../listeners.js";
import { withTimeout } from "../timeout.js";
import type { ConnectDetails, Connection } from "../types.js";
import type { EngineHost, FlowEngine } from "./engine.js";
import type { FlowState, FlowTarget } from "./state.js";
import type { WatchTimes } from "./watch.js";
import { openWindow, type WindowWords } from "./window.js";

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

/** How long the steps of a connect may take to load, in milliseconds. */
const LOAD_TIMEOUT = 15_000;

type Steps = typeof import("./engine.js");
let steps: Steps | undefined;

/** Loads the steps of a connect. A page that shows a button loads them before the first click. */
export async function loadSteps(): Promise<Steps> {
  return (steps ??= await withTimeout(import("./engine.js"), LOAD_TIMEOUT, "The connect flow takes too long to load"));
}

/**
 * One connect, from the click to the end. Only the service says whether it is connected; a window that closes is a reason
 * to query the service at once. The window opens in the click; the steps after it are a module that is loaded apart.
 *
 * `resume` and `dispose` come in pairs, as often as one likes; `start` and `reopen` belong in a click.
 */
export class ConnectFlow {
  readonly #listeners = new Listeners();
  readonly #observers = new Listeners<Connection>();
  readonly #host: EngineHost;
  #loaded: FlowEngine | undefined;
  /** The window of a click that waits for the engine. */
  #opened: Window | null = null;
  #isLive = true;
  /** Called with a connection whose attempt the service has canceled. */
  onCanceled: (connection: Connection) => void = () => {};

  constructor(client: Client, target: FlowTarget, options: FlowOptions = {}) {
    this.#host = {
      client,
      target,
      options,
      state: { phase: "idle" },
      set: (state) => {
        this.#host.state = state;
        this.#listeners.call();
      },
      connected: (connection) => {
        const { onConnected } = this.options;
        if (onConnected && (this.#observers.size === 0 || this.#observers.has(onConnected))) onConnected(connection);
        else this.#observers.call(connection);
      },
      canceled: (connection) => this.onCanceled(connection),
    };
  }

  /** Where it stands. */
  get state(): FlowState {
    return this.#host.state;
  }

  /** May be replaced between clicks. */
  get options(): FlowOptions {
    return this.#host.options;
  }

  set options(options: FlowOptions) {
    this.#host.options = options;
  }

  /** The connection that is being authorized; undefined while none is known. */
  get connectionId(): string | undefined {
    return this.#loaded?.connectionId;
  }

  /** Calls `listener` at every change; the returned function ends that. */
  subscribe(listener: () => void): () => void {
    return this.#listeners.listen(listener);
  }

  /**
   * Has `observer` called with each connection that is connected, where several share the flow: the one that is the
   * start's `onConnected`, or all if that one is not there, as after a reload. The returned function ends that.
   */
  observe(observer: (connection: Connection) => void): () => void {
    return this.#observers.listen(observer);
  }

  /** Starts an attempt. Opens the window, so it has to be called in the click itself. */
  start(target: FlowTarget = this.#host.target, options: FlowOptions = this.options): void {
    if (this.state.phase === "starting") return;
    Object.assign(this.#host, { target, options });
    if (this.#engine) this.#engine.start();
    else void this.#startLoading();
  }

  /** Shows the window of the attempt in progress, or opens it again; starts a new attempt if this one has expired. */
  reopen(): void {
    if (this.#loaded) this.#loaded.reopen();
    else if (this.#opened) this.#opened.focus();
    else this.start();
  }

  /** Says that the user has followed a link to `oauthUrl`: the window is open, but not ours to see. */
  followed(): void {
    if (this.state.phase === "waiting") this.#host.set({ ...this.state, window: "unknown" });
  }

  /** Cancels the attempt in progress, of which nothing comes any more; forgets one that has ended. */
  dismiss(): void {
    if (this.#loaded) return this.#loaded.dismiss();
    this.#opened?.close();
    this.#opened = null;
    this.#host.set({ phase: "idle", canceled: this.state.phase === "starting" });
  }

  /** Continues what is in progress, from before a reload, too. */
  resume(): void {
    this.#isLive = true;
    const resumed = () => {
      if (this.#isLive) this.#engine?.resume();
    };
    if (steps) resumed();
    else void loadSteps().then(resumed, () => undefined);
  }

  /** Stops all timers and requests. What is in progress continues in the window, and `resume` finds it. */
  dispose(): void {
    this.#isLive = false;
    this.#loaded?.dispose();
  }

  get #engine(): FlowEngine | undefined {
    if (!this.#loaded && steps) {
      this.#loaded = new steps.FlowEngine(this.#host);
      if (!this.#isLive) this.#loaded.dispose();
    }
    return this.#loaded;
  }

  /** Opens the window, and starts once the engine is there. */
  async #startLoading(): Promise<void> {
    const opened = openWindow(this.options.words);
    this.#opened = opened;
    // An empty window of a page that is gone would stay for ever.
    const gone = () => opened?.close();
    window.addEventListener("pagehide", gone);
    const starting: FlowState = { phase: "starting", window: opened ? "open" : "blocked" };
    this.#host.set(starting);
    const failure = await loadSteps().then(() => undefined, (cause: unknown) => cause);
    window.removeEventListener("pagehide", gone);
    // Dismissed meanwhile.
    if (this.state !== starting) return;
    this.#opened = null;
    if (this.#engine) return this.#engine.start(opened);
    opened?.close();
    this.#host.set({ phase: "refused", error: ownError("network", "The server could not be reached", failure) });
  }
}

/** A connect of its own, for pages without React. */
export function connectFlow(client: Client, target: FlowTarget, options?: FlowOptions): ConnectFlow {
  return new ConnectFlow(client, target, options);
}
