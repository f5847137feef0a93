import { plain, type ConnectForm, type FlowState, type UseConnect } from "@patchbay/react";
import { announce } from "../announcer.js";
import { Away } from "../ui/icons.js";
import { Detail, Notice, Why } from "../ui/parts.js";
import { remedyOf, saidOf, type Tone } from "../words.js";

interface FlowNoticeProps {
  connect: UseConnect;
  form: ConnectForm;
  /** What a person calls the connector. */
  name: string;
}

/**
 * Where a connect stands, while there is something to tell, and what can be done. It belongs in the page before there
 * is, for it is read out as it changes.
 */
export function FlowNotice({ connect, form, name }: FlowNoticeProps) {
  const { state } = connect;
  const said = form.isOpen ? "" : saidOf(state, name);
  return (
    <div className="live" aria-live="polite">
      {said && (
        <Notice tone={toneOf(state)} actions={<Actions connect={connect} start={form.start} />}>
          {state.phase === "refused" ? <Why error={state.error} /> : said}
          <Detail text={state.phase === "failed" ? plain(state.detail) : null} />
        </Notice>
      )}
    </div>
  );
}

/** The colour of where a connect stands. */
export function toneOf(state: FlowState): Tone {
  if (state.phase === "starting") return "wait";
  if (state.phase === "waiting") return state.trouble || state.window === "blocked" ? "warn" : "wait";
  if (state.phase === "canceled") return "off";
  return state.phase === "superseded" ? "warn" : "bad";
}

function Actions({ connect, start }: { connect: UseConnect; start: () => void }) {
  const { state } = connect;
  const busy = state.phase === "waiting" || state.phase === "starting";
  const dismiss = () => {
    connect.dismiss();
    if (busy) announce("Canceled.");
  };
  const cancel = (
    <button className="button compact bare" onClick={dismiss}>
      {busy ? "Cancel" : "Dismiss"}
    </button>
  );
  if (state.phase === "starting" && state.window !== "closed") return cancel;
  if (state.phase !== "waiting" && state.phase !== "starting") {
    return (
      <>
        <button className="button compact" onClick={start}>
          {"connection" in state ? remedyOf(state.connection) : "Try again"}
        </button>
        {cancel}
      </>
    );
  }
  const url = state.phase === "waiting" && state.attempt.oauthUrl;
  if (state.window === "blocked" && url) {
    return (
      <>
        <a className="button compact" href={url} target="_blank" rel="noopener noreferrer" onClick={connect.followed}>
          <Away />
          Open the window
        </a>
        {cancel}
      </>
    );
  }
  return (
    <>
      <button className="button compact" onClick={connect.reopen}>
        {state.window === "open" ? "Show it again" : "Open it again"}
      </button>
      {cancel}
    </>
  );
}
