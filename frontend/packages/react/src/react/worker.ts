import { backoff } from "@patchbay/client";
import { LONGEST_PAUSE } from "./persistently.js";

/** Repeats a step while there is work: one at a time, with a pause between steps that grows after failures. */
export class Worker {
  readonly #hasWork: () => boolean;
  readonly #step: () => Promise<number | null>;
  readonly #first: number;
  readonly #pace: number;
  #wake: (() => void) | undefined;
  #running = Promise.resolve();
  /** `true` while the worker runs, pauses included. */
  working = false;
  /** `true` during the pause after a step that succeeded. */
  resting = false;

  /** `step` resolves to null if it succeeded, else to the shortest pause before the next step. `first` is the pause after the first step, `pace` after each later step. */
  constructor(hasWork: () => boolean, step: () => Promise<number | null>, first: number, pace: number) {
    this.#hasWork = hasWork;
    this.#step = step;
    this.#first = first;
    this.#pace = pace;
  }

  /** Starts the worker if it is not running. Resolves when there is no work left, and the last pause has ended. */
  run(): Promise<void> {
    if (!this.working) {
      this.working = true;
      this.#running = this.#loop();
    }
    return this.#running;
  }

  async #loop(): Promise<void> {
    for (let failures = 0, steps = 1; this.#hasWork(); steps += 1) {
      const asked = await this.#step();
      failures = asked === null ? 0 : failures + 1;
      const pace = steps === 1 ? this.#first : this.#pace;
      this.resting = failures === 0;
      await new Promise<void>((resolve) => {
        setTimeout(resolve, asked === null ? pace : Math.max(asked, backoff(failures, 1_000, LONGEST_PAUSE)));
        this.#wake = resolve;
      });
      this.resting = false;
    }
    this.working = false;
  }

  /** Ends the pause, and starts the worker if it is not running. */
  hurry(): void {
    this.#wake?.();
    void this.run();
  }
}
