/** A product's page with Patchbay in it, for one user. */
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { render, type RenderResult } from "@testing-library/react";
import { userEvent, type UserEvent } from "@testing-library/user-event";
import { StrictMode, type ReactNode } from "react";
import { createClient, PatchbayProvider, type Client, type PatchbayProviderProps } from "../../src/index.js";
import { consent, newUser, tokenFor } from "../../../client/tests/support/nango.js";
import { Proxy } from "../../../client/tests/support/proxy.js";

export interface Page extends RenderResult {
  proxy: Proxy;
  /** What the person in front of it does. */
  person: UserEvent;
  /** The same user elsewhere. */
  elsewhere: Client;
  user: string;
  queries: QueryClient;
  /** Makes it another user's page, without loading it again. */
  signIn: (user: string) => Promise<void>;
}

interface Options extends Partial<PatchbayProviderProps> {
  user?: string;
  proxy?: Proxy;
}

/** Renders a page, twice each time as React's strict mode does. */
export async function page(children: ReactNode, { user = newUser(), proxy, ...props }: Options = {}): Promise<Page> {
  const queries = new QueryClient();
  const between = proxy ?? (await Proxy.start());
  const token = await tokenFor(user);
  const elsewhere = createClient({ baseUrl: between.url, getToken: () => token });
  const of = (whose: string, signed: string) => (
    <StrictMode>
      <QueryClientProvider client={queries}>
        <PatchbayProvider baseUrl={between.url} getToken={() => signed} user={whose} {...props}>
          {children}
        </PatchbayProvider>
      </QueryClientProvider>
    </StrictMode>
  );
  const rendered = render(of(user, token));
  const signIn = async (whose: string) => rendered.rerender(of(whose, await tokenFor(whose)));
  return { ...rendered, proxy: between, person: userEvent.setup(), elsewhere, user, queries, signIn };
}

/** Connects an account without any page. */
export async function connected(client: Client, connector: string, instanceId = "", label?: string): Promise<string> {
  const started = await client.connect(connector, { instanceId, ...(label ? { details: { label } } : {}) });
  await consent(started.oauth_url ?? "", "allow");
  const connection = await client.getConnection(started.connection_id, { wait: 25 });
  if (connection.status !== "connected") throw new Error(`${connector} is ${connection.status}`);
  return connection.id;
}
