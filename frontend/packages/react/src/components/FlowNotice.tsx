import type { ReactNode } from "react";
import { isFromElsewhere } from "@patchbay/client";
import type { UseConnect } from "../react/useConnect.js";
import { FlowActions, FlowText } from "./lazy.js";

/** Props of `FlowNotice`. */
export interface FlowNoticeProps {
  /** The result of `useConnect`. */
  connect: UseConnect;
  /** The connector's display name. */
  name: string;
}

/** The message for a connect's state, announced when it changes, and the user's actions. */
export function FlowNotice({ connect, name }: FlowNoticeProps): ReactNode {
  const { state } = connect;
  return (
    <div
      data-patchbay="flow"
      data-phase={state.phase}
      data-window={"window" in state ? state.window : undefined}
      data-warning={state.phase === "connected" && isFromElsewhere(state.connection) ? "" : undefined}
    >
      <p data-patchbay="flow-text" role="status">
        {/* Until the message is loaded, the error's own text. */}
        <FlowText state={state} name={name} fallback={state.phase === "refused" && state.error.message} />
      </p>
      {state.phase !== "idle" && <FlowActions connect={connect} />}
    </div>
  );
}
