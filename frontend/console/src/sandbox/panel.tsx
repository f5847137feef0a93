import { useId } from "react";
import { Close } from "../ui/icons.js";
import { Notice } from "../ui/parts.js";
import { useFaults, useLog, type Faults, type LogLine } from "./controls.js";
import { FAULTS, inForce, isOn, NO_FAULTS, type Fault } from "./faults.js";
import { Scenarios } from "./scenarios.js";

/** The sandbox's controls: what is to go wrong, and what Nango has seen. */
export function SandboxPanel({ onClose }: { onClose: () => void }) {
  const { faults, change, error, refetch } = useFaults();
  return (
    <aside className="sandbox" aria-label="Sandbox">
      <div className="sandbox-head">
        <h2>Sandbox</h2>
        <button className="button bare icon" aria-label="Close the sandbox’s controls" onClick={onClose}>
          <Close />
        </button>
      </div>
      <section aria-labelledby="scenarios-title">
        <h3 id="scenarios-title">Scenarios</h3>
        <p className="quiet small">Each plays a whole story with a new Gmail account of yours, and resets all faults after it.</p>
        <Scenarios onFaults={() => void refetch()} />
      </section>
      <section aria-labelledby="faults-title">
        <h3 id="faults-title">Faults</h3>
        <p className="quiet small">A fault applies to all users until you switch it off. Switch one on and connect an account.</p>
        {faults && (
          <button className="button compact" aria-disabled={inForce(faults).length === 0} onClick={() => change(NO_FAULTS)}>
            Reset all faults
          </button>
        )}
        {error && <Notice tone="bad">{error.message}</Notice>}
        {faults && (
          <>
            <Consent consent={faults.consent} onChange={(consent) => change({ consent })} />
            {FAULTS.map((fault) => (
              <Switch key={fault.name} fault={fault} on={isOn(fault, faults)} onChange={change} />
            ))}
          </>
        )}
      </section>
      <section aria-labelledby="log-title">
        <h3 id="log-title">Requests and webhooks of Nango</h3>
        <Log />
      </section>
    </aside>
  );
}

const CHOICES: { value: Faults["consent"]; name: string }[] = [
  { value: "ask", name: "Ask" },
  { value: "allow", name: "Allow" },
  { value: "deny", name: "Deny" },
];

function Consent({ consent, onChange }: { consent: Faults["consent"]; onChange: (consent: Faults["consent"]) => void }) {
  return (
    <fieldset className="fault">
      <legend>The provider’s consent page</legend>
      <div className="choices">
        {CHOICES.map(({ value, name }) => (
          <label key={value}>
            <input type="radio" name="consent" checked={consent === value} onChange={() => onChange(value)} />
            {name}
          </label>
        ))}
      </div>
      <p>
        <strong>What you should see:</strong> “Ask” shows the page. “Allow” and “Deny” answer it at once, without showing it. For
        an API key there is no such page.
      </p>
    </fieldset>
  );
}

function Switch({ fault, on, onChange }: { fault: Fault; on: boolean; onChange: (some: Partial<Faults>) => void }) {
  const id = useId();
  return (
    <div className="fault">
      <label htmlFor={id}>{fault.name}</label>
      <input
        id={id}
        className="switch"
        type="checkbox"
        role="switch"
        checked={on}
        aria-describedby={`${id}-shows`}
        onChange={() => onChange(on ? fault.off : fault.on)}
      />
      <p id={`${id}-shows`}>
        <strong>What you should see:</strong> {fault.shows}
      </p>
    </div>
  );
}

function Log() {
  const { data, error } = useLog();
  if (error) return <p className="quiet small">The sandbox cannot be reached.</p>;
  if (data?.length === 0) return <p className="quiet small">Nothing yet.</p>;
  return (
    <ol className="log">
      {data?.slice(0, 30).map((line, index) => <Line key={`${line.at} ${index}`} line={line} />)}
    </ol>
  );
}

function Line({ line }: { line: LogLine }) {
  const time = <span className="quiet mono">{new Date(line.at).toLocaleTimeString("en-GB")}</span>;
  if (line.kind === "received") {
    const { method, path, status } = line.call;
    return (
      <li>
        {time}
        <span className="mono">
          {method} {shortened(path)}
        </span>
        <span className={`mono tone-${status === null || status >= 400 ? "bad" : "good"}`}>{status ?? "no answer"}</span>
      </li>
    );
  }
  const { body, attempts } = line.webhook;
  const last = attempts.at(-1);
  return (
    <li>
      {time}
      <span>
        Webhook: {body.operation} of {body.providerConfigKey}, {body.success ? "succeeded" : "failed"}
      </span>
      <span className={`mono tone-${last?.status && last.status < 400 ? "good" : "bad"}`}>
        {last ? (last.status ?? "no answer") : "not sent"}
      </span>
    </li>
  );
}

/** Ids are cut: what was asked matters here, not of which. */
function shortened(path: string): string {
  return path.replace(/([0-9a-f]{8})-[0-9a-f-]{27}/g, "$1…");
}
