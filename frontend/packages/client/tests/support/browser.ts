/** The parts of a browser that jsdom does not have: windows. */
import { consent } from "./nango.js";

/** A window that was opened. */
export class Popup {
  closed = false;
  focused = false;
  /** Its opener, which the page that opened it may cut. */
  opener: unknown = window;
  /** Where it was sent. */
  readonly visited: string[] = [];
  readonly document = document.implementation.createHTMLDocument();
  /** Whether the page it was sent to cuts it off from its opener, as its opener policy may. */
  readonly #cutOff: boolean;

  constructor(
    readonly features: string,
    cutOff: boolean,
  ) {
    this.#cutOff = cutOff;
  }

  readonly location = {
    replace: (url: string) => {
      if (this.opener !== null) throw new Error("a window with an opener has left this origin");
      this.visited.push(url);
      if (this.#cutOff) this.closed = true;
    },
  };

  /** As in browsers, a window without an opener cannot be closed from here once it shows another origin. */
  close(): void {
    if (this.visited.length === 0) this.closed = true;
  }

  focus(): void {
    this.focused = true;
  }

  /** What its user or its own page does. */
  closeItself(): void {
    this.closed = true;
  }

  get url(): string {
    const url = this.visited.at(-1);
    if (!url) throw new Error("the window was sent nowhere");
    return url;
  }

  /** What the user does at the provider. */
  decide(decision: "allow" | "deny"): Promise<void> {
    return consent(this.url, decision);
  }
}

/** The browser's behaviour, and what was opened. */
class Browser {
  popups: Popup[] = [];
  blocks = false;
  cutsOff = false;
  /** Whether pages may not touch the windows that they open. */
  isolates = false;

  reset(): void {
    this.popups = [];
    this.blocks = false;
    this.cutsOff = false;
    this.isolates = false;
    sessionStorage.clear();
    window.open = (_url, _name, features) => {
      if (this.blocks) return null;
      const popup = new Popup(features ?? "", this.cutsOff);
      if (this.isolates) {
        Object.defineProperty(popup, "opener", {
          set: () => {
            throw new DOMException("", "SecurityError");
          },
        });
      }
      this.popups.push(popup);
      return popup as unknown as Window;
    };
  }

  /** The window that was opened last. */
  get popup(): Popup {
    const popup = this.popups.at(-1);
    if (!popup) throw new Error("no window was opened");
    return popup;
  }
}

export const browser = new Browser();
