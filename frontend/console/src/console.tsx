import { SERVICE } from "./base.js";
import { PatchbayProvider } from "@patchbay/react";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { useEffect, useMemo, useState, type ReactNode } from "react";
import type { Config } from "./config.js";
import { SignIn, type Asked } from "./pages/sign-in.js";
import { OpenerTokens, PEOPLE, remember, remembered, sandboxTokens, subjectOf, type GetToken, type Person } from "./session.js";
import { Shell } from "./shell.js";

/** The console for the signed-in user, or the sign-in page. */
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
  const [byHand, setByHand] = useState(() => remembered("token"));
  const opener = useMemo(() => {
    const opener = window.opener as Window | null;
    return opener && new OpenerTokens(opener, config);
  }, [config]);
  const [handedOver, setHandedOver] = useState<string | null>(null);
  const [asked, setAsked] = useState<Asked | null>(opener && "waiting");
  useEffect(() => {
    if (byHand || !opener) return;
    setAsked("waiting");
    opener.get({ fresh: false }).catch(() => setAsked("unanswered"));
    return opener.subscribe((token) => {
      setHandedOver(token);
      setAsked(null);
    });
  }, [opener, byHand]);

  const token = byHand ?? handedOver;
  const sign = (next: string | null) => {
    remember("token", next);
    setHandedOver(null);
    setByHand(next);
  };
  if (!token) return <SignIn asked={asked} onToken={sign} />;
  const subject = subjectOf(token);
  const person: Person = { id: subject ?? "?", name: subject ?? "Signed in" };
  const getToken: GetToken = ({ fresh }) => (byHand || !opener ? Promise.resolve(fresh ? null : token) : opener.get({ fresh }));
  // A token of another user starts a new session, wherever the token comes from.
  return (
    <SignedIn key={subject ?? token} user={person.id} getToken={getToken}>
      <Shell
        person={person}
        onSignOut={() => sign(null)}
        onSignIn={byHand || !opener ? undefined : async () => void (await opener.get({ fresh: true }))}
      />
    </SignedIn>
  );
}

/** Everything that is one user's, and goes with them. */
function SignedIn({ user, getToken, children }: { user: string; getToken: GetToken; children: ReactNode }) {
  const queries = useMemo(() => new QueryClient(), []);
  return (
    <QueryClientProvider client={queries}>
      <PatchbayProvider baseUrl={SERVICE} user={user} getToken={getToken}>
        {children}
      </PatchbayProvider>
    </QueryClientProvider>
  );
}
