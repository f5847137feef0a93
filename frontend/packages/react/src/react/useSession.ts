import { useCallback, useMemo, useSyncExternalStore } from "react";
import { usePatchbay } from "./context.js";

/** Whether the user's token is still accepted. */
export interface UseSession {
  /** A fresh token was refused, or there was none: the user has to sign in again. */
  expired: boolean;
  /** Tries again, once the user has signed in. */
  retry: () => Promise<void>;
}

/** Tells when the user has to sign in again. */
export function useSession(): UseSession {
  const { client, cache } = usePatchbay();
  const subscribe = useCallback((listener: () => void) => client.session.subscribe(listener), [client]);
  const expired = useSyncExternalStore(
    subscribe,
    () => client.session.expired,
    () => false,
  );
  const retry = useCallback(() => {
    client.session.set(false);
    return cache.again();
  }, [client, cache]);
  return useMemo(() => ({ expired, retry }), [expired, retry]);
}
