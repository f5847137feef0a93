import { useMutation } from "@tanstack/react-query";
import type { Connection, DisconnectAnswer } from "../types.js";
import { usePatchbay } from "./context.js";

/** What can be done with a connection. */
export interface ConnectionActions {
  /** What the user calls it; null removes the name. */
  rename: (label: string | null) => Promise<Connection>;
  /** Asks Nango now how it is. */
  check: () => Promise<Connection>;
  /** After an `account_mismatch`: takes the account that it came back as. */
  acceptAccount: (accountId: string) => Promise<Connection>;
  disconnect: () => Promise<DisconnectAnswer>;
  /** What is under way. */
  busy: "rename" | "check" | "accept" | "disconnect" | null;
}

/** What can be done with the connection of this id. */
export function useConnectionActions(id: string): ConnectionActions {
  const { client, cache } = usePatchbay();
  const put = (connection: Connection) => cache.put(connection);
  const renaming = useMutation({ mutationFn: (label: string | null) => client.update(id, { label }), onSuccess: put });
  const checking = useMutation({ mutationFn: () => client.check(id), onSuccess: put });
  const accepting = useMutation({ mutationFn: (account: string) => client.acceptAccount(id, account), onSuccess: put });
  const ending = useMutation({
    mutationFn: async () => {
      const { connector_id } = await client.getConnection(id);
      return client.disconnect(connector_id, { connectionId: id });
    },
    onSuccess: () => cache.refresh(id),
  });
  let busy: ConnectionActions["busy"] = null;
  if (renaming.isPending) busy = "rename";
  else if (checking.isPending) busy = "check";
  else if (accepting.isPending) busy = "accept";
  else if (ending.isPending) busy = "disconnect";
  return {
    rename: renaming.mutateAsync,
    check: checking.mutateAsync,
    acceptAccount: accepting.mutateAsync,
    disconnect: ending.mutateAsync,
    busy,
  };
}
