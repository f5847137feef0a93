/** The Web Locks that jsdom lacks, as far as the client uses them: exclusive ones, granted in the order of the requests. */
export class Locks {
  readonly #queues = new Map<string, Waiting[]>();

  async request<T>(name: string, { signal }: { signal: AbortSignal }, work: () => Promise<T>): Promise<T> {
    const queue = this.#queues.get(name) ?? [];
    this.#queues.set(name, queue);
    const own: Waiting = { name, grant: () => {} };
    queue.push(own);
    const leave = () => {
      const wasFirst = queue[0] === own;
      queue.splice(queue.indexOf(own), 1);
      if (wasFirst) queue[0]?.grant();
    };
    if (queue[0] !== own) {
      await new Promise<void>((resolve, reject) => {
        own.grant = resolve;
        signal.addEventListener("abort", () => {
          if (queue[0] === own) return;
          leave();
          reject(new DOMException("The lock request is aborted", "AbortError"));
        });
      });
    }
    return work().finally(leave);
  }

  query(): Promise<{ held: Waiting[]; pending: Waiting[] }> {
    const queues = [...this.#queues.values()];
    return Promise.resolve({ held: queues.flatMap((queue) => queue.slice(0, 1)), pending: queues.flatMap((queue) => queue.slice(1)) });
  }
}

interface Waiting {
  name: string;
  grant: () => void;
}
