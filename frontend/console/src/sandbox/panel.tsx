import { useId } from "react";
import { Close } from "../ui/icons.js";
import { Notice } from "../ui/parts.js";
import { useFaults, useLog, type Faults, type LogLine } from "./controls.js";
import { FAULTS, isOn, type Fault } from "./faults.js";

/** The sandbox's controls: what is to go wrong, and what Nango has seen. */
export function SandboxPanel({ onClose }: { onClose: () => void }) {
  const { faults, change, error } = useFaults();
  return (
    <aside className="sandbox" aria-label="Sandbox">
      <div className="sandbox-head">
        <h2>Sandbox</h2>
        <button className="button bare icon" aria-label="Close the sandbox’s controls" onClick={onClose}>
          <Close />
        </button>
      </div>
      <section aria-labelledby="faults-title">
        <h3 id="faults-title">What goes wrong</h3>
        <p className="quiet small">For everybody, from now on, until it is switched off. Connect something and see.</p>
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
        <h3 id="log-title">What Nango received and sent</h3>
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
      <p>Ask a person, or answer for them at once: allowing shows how fast it is, denying what a no looks like.</p>
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
      <p id={`${id}-shows`}>{fault.shows}</p>
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
