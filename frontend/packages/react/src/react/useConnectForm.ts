import { PatchbayError, type Parameter } from "@patchbay/client";
import { useState } from "react";
import type { UseConnect } from "./useConnect.js";

/** A connect that first asks for the connector's parameters, where it needs some. */
export interface ConnectForm {
  parameters: readonly Parameter[];
  /** What the user has typed so far, by the parameters' names. */
  values: Record<string, string>;
  change: (values: Record<string, string>) => void;
  /** Whether the form is to be shown. */
  isOpen: boolean;
  /** The service's last error, which may concern one of the values. */
  refusal: PatchbayError | null;
  /** Opens the form, or starts the connect if no value is missing. To be called in the click itself. */
  start: () => void;
  /** Starts the connect with these values. In the click, too. */
  connect: (values: Record<string, string>) => void;
  cancel: () => void;
}

/** The form of a connect. `given` are the values of parameters that are known without it. */
export function useConnectForm(
  { state, isBusy, start, startWith }: UseConnect,
  parameters: readonly Parameter[],
  given: Record<string, string> = {},
): ConnectForm {
  const refusal = state.phase === "refused" ? state.error : null;
  const [values, setValues] = useState<Record<string, string>>({});
  const [isOpen, setOpen] = useState(false);
  const [answered, setAnswered] = useState<Error | null>(null);
  const needsValues = parameters.some(({ name, required }) => required && !given[name]);
  // It opens again at the field that the service has refused.
  if (refusal && refusal !== answered) {
    setAnswered(refusal);
    if (needsValues && refusedParameter(refusal, parameters)) setOpen(true);
  }
  return {
    parameters,
    values,
    change: setValues,
    isOpen: isOpen && !isBusy,
    refusal,
    start: () => (needsValues ? setOpen(true) : start()),
    connect: (values) => {
      setValues(values);
      setOpen(false);
      startWith(values);
    },
    cancel: () => setOpen(false),
  };
}

/** The parameter that the service has refused; undefined if the error is another. */
export function refusedParameter(error: PatchbayError, parameters: readonly Parameter[]): Parameter | undefined {
  if (error.code !== "invalid_request") return undefined;
  return parameters.find(({ name }) => error.detail.includes(`\`parameters.${name}\``));
}
