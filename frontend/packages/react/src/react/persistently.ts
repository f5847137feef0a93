import { backoff } from "@patchbay/client";

/** The longest pause after failures, in milliseconds. */
export const LONGEST_PAUSE = 30_000;

/** Loads code that the page can do without at first, again and again until that succeeds. */
export async function persistently<T>(load: () => Promise<T>): Promise<T> {
  for (let failures = 1; ; failures += 1) {
    try {
      return await load();
    } catch {
      await new Promise((resolve) => setTimeout(resolve, backoff(failures, 500, LONGEST_PAUSE)));
    }
  }
}
