import { usePatchbay, type Client, type Connection } from "@patchbay/react";
import { useContext, useState } from "react";
import { go, paths } from "../router.js";
import { Notice } from "../ui/parts.js";
import { age, ControlsContext, setFaults, type Faults } from "./controls.js";
import { NO_FAULTS } from "./faults.js";

/** What a scenario works with. */
interface Stage {
  client: Client;
  controls: string;
  /** Plays these faults from now on, and no others. */
  play: (faults: Partial<Faults>) => Promise<void>;
}

/** A whole story, played without the user. */
interface Scenario {
  name: string;
  /** What the user should see. */
  shows: string;
  /** Plays it. Returns the page that shows the result. */
  run: (stage: Stage) => Promise<string>;
}

/** Starts to connect one more account, and answers the consent page as the faults say. */
async function attempt({ client }: Stage, finish = true): Promise<{ id: string; url: string }> {
  const label = `Scenario at ${new Date().toLocaleTimeString("en-GB")}`;
  const started = await client.connect("gmail", { instanceId: crypto.randomUUID().slice(0, 8), details: { label } });
  const url = started.oauth_url ?? "";
  if (finish) await visit(url);
  return { id: started.connection_id, url };
}

/** Opens a page as the popup does. Its response is nothing that this page may read. */
async function visit(url: string): Promise<void> {
  await fetch(url, { mode: "no-cors", credentials: "include", headers: { accept: "text/html" } });
}

async function connected(stage: Stage): Promise<Connection> {
  await stage.play({ consent: "allow" });
  const { id } = await attempt(stage);
  return stage.client.getConnection(id, { wait: 25 });
}

const SCENARIOS: Scenario[] = [
  {
    name: "A webhook gets lost",
    shows: "The account is connected all the same: the service polls Nango. The log below has no delivered webhook.",
    run: async (stage) => {
      await stage.play({ consent: "allow", drop_webhooks: true });
      const { id } = await attempt(stage);
      await stage.client.getConnection(id, { wait: 25 });
      return paths.connection(id);
    },
  },
  {
    name: "The user denies access",
    shows: "“Denied”, with the reason and a button to connect again or to remove it.",
    run: async (stage) => {
      await stage.play({ consent: "deny" });
      const { id } = await attempt(stage);
      await stage.client.getConnection(id, { wait: 25 });
      return paths.connection(id);
    },
  },
  {
    name: "The user cancels, and finishes after all",
    shows: "“Removed”: the late grant connects nothing. The log below shows its deletion at Nango.",
    run: async (stage) => {
      await stage.play({ consent: "allow" });
      const { id, url } = await attempt(stage, false);
      await stage.client.cancel(id);
      await visit(url);
      return paths.connection(id);
    },
  },
  {
    name: "Access is revoked at the provider",
    shows:
      "“Access ended”, with a button to reconnect; or “Having trouble”, while no other account shows that the provider itself works.",
    run: async (stage) => {
      const { id, nango_connection_id: nangoId } = await connected(stage);
      await age(stage.controls, "revoke", nangoId ?? "");
      await stage.client.check(id);
      return paths.connection(id);
    },
  },
  {
    name: "The provider fails for a while",
    shows: "“Connected”: the history has “Access could not be renewed”, then “Works again”.",
    run: async (stage) => {
      const { id } = await connected(stage);
      await stage.play({ refuse_refresh: true });
      await stage.client.check(id);
      await stage.play({});
      await stage.client.check(id);
      return paths.connection(id);
    },
  },
  {
    name: "Nango fails during a disconnect",
    shows: "“Disconnected” at once. The log below shows a failed deletion, then another one that succeeds.",
    run: async (stage) => {
      const { id } = await connected(stage);
      await stage.play({ refuse_delete: true });
      await stage.client.disconnect("gmail", { connectionId: id });
      return paths.connection(id);
    },
  },
];

/** Stories that a button plays from beginning to end, as the signed-in user. */
export function Scenarios({ onFaults }: { onFaults: () => void }) {
  const { client } = usePatchbay();
  const controls = useContext(ControlsContext) ?? "";
  const [running, setRunning] = useState<string | null>(null);
  const [played, setPlayed] = useState<Scenario | null>(null);
  const [trouble, setTrouble] = useState<Error | null>(null);
  const play = async (scenario: Scenario) => {
    if (running !== null) return;
    setRunning(scenario.name);
    setPlayed(null);
    setTrouble(null);
    const change = (faults: Partial<Faults>) => setFaults(controls, { ...NO_FAULTS, ...faults });
    try {
      go(await scenario.run({ client, controls, play: change }));
      setPlayed(scenario);
    } catch (error) {
      setTrouble(error as Error);
    } finally {
      await change({}).catch(setTrouble);
      onFaults();
      setRunning(null);
    }
  };
  return (
    <>
      {SCENARIOS.map((scenario) => (
        <div key={scenario.name} className="fault">
          <span>{scenario.name}</span>
          <button className="button compact" aria-disabled={running !== null} onClick={() => void play(scenario)}>
            {running === scenario.name ? "Playing…" : "Play"}
            <span className="hidden"> “{scenario.name}”</span>
          </button>
          <p>
            <strong>What you should see:</strong> {scenario.shows}
          </p>
        </div>
      ))}
      <div role="status">
        {played && (
          <Notice tone="good" title={`Played: ${played.name}`}>
            What you should see: {played.shows}
          </Notice>
        )}
      </div>
      {trouble && (
        <div role="alert">
          <Notice tone="bad">{trouble.message}</Notice>
        </div>
      )}
    </>
  );
}
