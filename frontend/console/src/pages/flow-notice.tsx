import type { ConnectFlow, FlowState } from "@patchbay/react";
import { Away } from "../ui/icons.js";
import { Notice, Why } from "../ui/parts.js";
import { flowWords, type Tone } from "../words.js";

/**
 * Where a connect stands, while there is something to tell, and what can be done. It belongs in the page before there
 * is, for it is read out as it changes.
 */
export function FlowNotice({ flow, state }: { flow: ConnectFlow; state: FlowState }) {
  const words = flowWords(state);
  return (
    <div className="live" aria-live="polite">
      {words && (
        <Notice tone={toneOf(state)} title={words.title} actions={<Actions flow={flow} state={state} />}>
          {state.phase === "refused" ? <Why error={state.error} /> : words.text}
        </Notice>
      )}
    </div>
  );
}

/** The colour of where a connect stands. */
export function toneOf(state: FlowState): Tone {
  if (state.phase === "starting") return "wait";
  if (state.phase === "waiting") return state.trouble || state.window === "blocked" ? "warn" : "wait";
  return state.phase === "superseded" || state.phase === "account_mismatch" ? "warn" : "bad";
}

function Actions({ flow, state }: { flow: ConnectFlow; state: FlowState }) {
  const cancel = (
    <button className="button compact bare" onClick={() => flow.dismiss()}>
      {state.phase === "waiting" || state.phase === "starting" ? "Cancel" : "Dismiss"}
    </button>
  );
  if (state.phase === "starting") return cancel;
  if (state.phase !== "waiting") {
    return (
      <>
        <button className="button compact" onClick={() => flow.start()}>
          Try again
        </button>
        {cancel}
      </>
    );
  }
  const url = state.attempt.oauthUrl;
  if (state.window === "blocked" && url) {
    return (
      <>
        <a className="button compact" href={url} target="_blank" rel="noopener noreferrer" onClick={() => flow.followed()}>
          <Away />
          Open the window
        </a>
        {cancel}
      </>
    );
  }
  return (
    <>
      <button className="button compact" onClick={() => flow.reopen()}>
        {state.window === "open" ? "Show it again" : "Open it again"}
      </button>
      {cancel}
    </>
  );
}
