import { PatchbayProvider, usePatchbay } from "@patchbay/react";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { useEffect, useMemo, useState, type ReactNode } from "react";
import type { Config } from "./config.js";
import { Flows, FlowsContext } from "./flows.js";
import { SignIn, type Asked } from "./pages/sign-in.js";
import { openersTokens, PEOPLE, remember, remembered, sandboxTokens, subjectOf, type GetToken, type Person } from "./session.js";
import { Shell } from "./shell.js";

/** The console for whoever is signed in; and if nobody is, the way in. */
export function Console({ config }: { config: Config }) {
  return config.controls ? <SandboxConsole controls={config.controls} /> : <ProductConsole config={config} />;
}

function SandboxConsole({ controls }: { controls: string }) {
  const [user, setUser] = useState(() => remembered("user") ?? "ada");
  const getToken = useMemo(() => sandboxTokens(controls, user), [controls, user]);
  const person = PEOPLE.find((one) => one.id === user) ?? { id: user, name: user };
  const change = (next: string) => {
    remember("user", next);
    setUser(next);
  };
  return (
    <SignedIn key={user} user={user} getToken={getToken}>
      <Shell person={person} people={PEOPLE} onPerson={change} controls={controls} />
    </SignedIn>
  );
}

function ProductConsole({ config }: { config: Config }) {
  const [token, setToken] = useState(() => remembered("token"));
  const fromOpener = useMemo(() => {
    const opener = window.opener as Window | null;
    return opener && openersTokens(opener, config);
  }, [config]);
  const [handedOver, setHandedOver] = useState<string | null>(null);
  const [asked, setAsked] = useState<Asked | null>(fromOpener && "waiting");
  useEffect(() => {
    if (token || !fromOpener) return;
    setAsked("waiting");
    void fromOpener({ fresh: false }).then((answer) => {
      setHandedOver(answer);
      setAsked(answer ? null : "unanswered");
    });
  }, [fromOpener, token]);

  const current = token ?? handedOver;
  const sign = (next: string | null) => {
    remember("token", next);
    setHandedOver(null);
    setToken(next);
  };
  if (!current) return <SignIn asked={asked} onToken={sign} />;
  const getToken: GetToken = async ({ fresh }) => {
    if (!token && fromOpener) return fromOpener({ fresh });
    return fresh ? null : token;
  };
  const subject = subjectOf(current) ?? "Signed in";
  const person: Person = { id: subject, name: subject };
  return (
    <SignedIn key={token ?? "opener"} user={subject} getToken={getToken}>
      <Shell person={person} onSignOut={() => sign(null)} />
    </SignedIn>
  );
}

/** Everything that is one user's, and goes with them. */
function SignedIn({ user, getToken, children }: { user: string; getToken: GetToken; children: ReactNode }) {
  const queries = useMemo(() => new QueryClient(), []);
  return (
    <QueryClientProvider client={queries}>
      <PatchbayProvider baseUrl="" user={user} getToken={getToken}>
        <WithFlows>{children}</WithFlows>
      </PatchbayProvider>
    </QueryClientProvider>
  );
}

function WithFlows({ children }: { children: ReactNode }) {
  const { client, cache } = usePatchbay();
  // Shown at once, without waiting for the event that tells of it, too.
  const flows = useMemo(() => new Flows(client, (connection) => cache.put(connection)), [client, cache]);
  return <FlowsContext value={flows}>{children}</FlowsContext>;
}
