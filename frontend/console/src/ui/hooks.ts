import { usePatchbay } from "@patchbay/react";
import { useEffect, useState } from "react";

/** Names the page in the window's title. */
export function useTitle(title: string): void {
  useEffect(() => {
    document.title = `${title} · Patchbay`;
  }, [title]);
}

/** The service's time, once a minute: the browser's clock may be wrong. */
export function useNow(): number {
  const { client } = usePatchbay();
  const [, tick] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => tick((count) => count + 1), 60_000);
    return () => clearInterval(timer);
  }, []);
  return client.now();
}
