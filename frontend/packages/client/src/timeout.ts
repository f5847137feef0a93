/** What a promise resolves to; rejects with this text if that takes longer than so many milliseconds. */
export function withTimeout<T>(promise: T | Promise<T>, milliseconds: number, text: string): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(text)), milliseconds);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
