import type { Parameter } from "@patchbay/client";
import { useState } from "react";
import type { UseConnect } from "./useConnect.js";
import { refusedParameter, useParameters, type UseParameters } from "./useParameters.js";
import { useConnectMessages } from "./context.js";

/** A connect that first asks for the connector's parameters, where it needs some. */
export interface ConnectForm extends UseParameters {
  /** Whether the form is to be shown. */
  isOpen: boolean;
  /** Opens the form, or starts the connect if no value is missing. To be called in the click itself. */
  start: () => void;
  /** Starts the connect with the values of the form, unless one is wrong. In the click, too. `false` if one is. */
  connect: () => boolean;
  cancel: () => void;
}

/** The form of a connect. `given` are the values of parameters that are known without it. */
export function useConnectForm(
  { state, isBusy, start, startWith }: UseConnect,
  parameters: readonly Parameter[],
  given: Record<string, string> = {},
): ConnectForm {
  const messages = useConnectMessages();
  const refusal = state.phase === "refused" ? state.error : null;
  const form = useParameters(parameters, refusal, messages);
  const [isOpen, setOpen] = useState(false);
  const [answered, setAnswered] = useState<Error | null>(null);
  const lacksOne = parameters.some(({ name, required }) => required && !given[name]);
  // It opens again at the field that the service has refused.
  if (refusal && refusal !== answered) {
    setAnswered(refusal);
    if (lacksOne && refusedParameter(refusal, parameters)) setOpen(true);
  }
  return {
    ...form,
    isOpen: isOpen && !isBusy,
    start: () => (lacksOne ? setOpen(true) : start()),
    connect: () => {
      const values = form.submit();
      if (!values) return false;
      setOpen(false);
      startWith(values);
      return true;
    },
    cancel: () => setOpen(false),
  };
}
