/** A pause in milliseconds that doubles with each failure, up to `longest`. Half of it is jitter: callers do not come back together. */
export function backoff(failures: number, first: number, longest: number): number {
  return Math.min(longest, first * 2 ** (failures - 1)) * (0.5 + Math.random() / 2);
}
