import { backoff } from "@patchbay/client";
import { LONGEST_PAUSE } from "./persistently.js";

/** Repeats a step for as long as there is something to do: one at a time, with a pause between, which grows while it fails. */
export class Worker {
  readonly #hasWork: () => boolean;
  readonly #step: () => Promise<boolean>;
  readonly #first: number;
  readonly #pace: number;
  #wake: (() => void) | undefined;
  /** Whether it is at work, pauses included. */
  working = false;

  /** `step` resolves to whether it worked. The pause after the first step is `first`, that after each further one `pace`. */
  constructor(hasWork: () => boolean, step: () => Promise<boolean>, first: number, pace: number) {
    this.#hasWork = hasWork;
    this.#step = step;
    this.#first = first;
    this.#pace = pace;
  }

  /** Begins, if there is something to do and it has not begun. */
  async run(): Promise<void> {
    if (this.working) return;
    this.working = true;
    for (let failures = 0, steps = 1; this.#hasWork(); steps += 1) {
      failures = (await this.#step()) ? 0 : failures + 1;
      const pace = steps === 1 ? this.#first : this.#pace;
      await new Promise<void>((resolve) => {
        setTimeout(resolve, failures > 0 ? backoff(failures, 1_000, LONGEST_PAUSE) : pace);
        this.#wake = resolve;
      });
    }
    this.working = false;
  }

  /** Ends the pause, and begins if it has not. */
  hurry(): void {
    this.#wake?.();
    void this.run();
  }
}
