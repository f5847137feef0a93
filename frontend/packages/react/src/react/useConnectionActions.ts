import { useMutation } from "@tanstack/react-query";
import type { Connection, DisconnectAnswer } from "@patchbay/client";
import { usePatchbay } from "./context.js";

/** The actions on a connection. */
export interface ConnectionActions {
  /** Sets the user's label; null removes it. */
  rename: (label: string | null) => Promise<Connection>;
  /** Checks the connection at Nango now. */
  check: () => Promise<Connection>;
  /** After an `account_mismatch`: accepts the account that the user authorized. */
  acceptAccount: (accountId: string) => Promise<Connection>;
  disconnect: () => Promise<DisconnectAnswer>;
  /** Removes a connection that is not connected from the list. */
  remove: () => Promise<DisconnectAnswer>;
  /** The action in progress; null if there is none. */
  busy: "rename" | "check" | "accept" | "disconnect" | "remove" | null;
}

type Action = Exclude<ConnectionActions["busy"], null>;

/** Returns the actions on the connection with this id. */
export function useConnectionActions(id: string): ConnectionActions {
  const { client, cache } = usePatchbay();
  const { mutateAsync, isPending, variables } = useMutation({
    mutationFn: ({ run }: { action: Action; run: () => Promise<unknown> }) => run(),
  });
  const put = (action: Action, change: () => Promise<Connection>) => {
    const run = () =>
      change().then((connection) => {
        cache.put(connection);
        return connection;
      });
    return mutateAsync({ action, run }) as Promise<Connection>;
  };
  const disconnect = async () => {
    const { connector_id } = cache.known(id) ?? (await client.getConnection(id));
    const answer = await client.disconnect(connector_id, { connectionId: id });
    await cache.refresh(id);
    return answer;
  };
  const remove = async () => {
    const answer = await client.remove(id);
    await cache.refresh(id);
    return answer;
  };
  return {
    rename: (label) => put("rename", () => client.update(id, { label })),
    check: () => put("check", () => client.check(id)),
    acceptAccount: (account) => put("accept", () => client.acceptAccount(id, account)),
    disconnect: () => mutateAsync({ action: "disconnect", run: disconnect }) as Promise<DisconnectAnswer>,
    remove: () => mutateAsync({ action: "remove", run: remove }) as Promise<DisconnectAnswer>,
    busy: isPending ? variables.action : null,
  };
}
