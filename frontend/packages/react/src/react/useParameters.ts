import type { Parameter } from "@patchbay/client";
import { useState } from "react";
import type { ConnectMessages } from "./messages.js";
import { refusedParameter, type ConnectForm } from "./useConnectForm.js";

/** A field of a connector's parameters. */
export interface ParameterField {
  parameter: Parameter;
  value: string;
  /** What is wrong with the value, for a person to read. */
  error: string | null;
  change: (value: string) => void;
}

/** A form for a connector's parameters. */
export interface UseParameters {
  fields: ParameterField[];
  /** Starts the connect. `false` if a value is wrong, which its field then says. */
  submit: () => boolean;
}

/** The fields of a connect's form. */
export function useParameters(form: ConnectForm, messages: ConnectMessages): UseParameters {
  const { parameters, values, refusal } = form;
  // A refusal holds until the field is changed.
  const [errors, setErrors] = useState<Record<string, string>>(() => {
    const refused = refusal && refusedParameter(refusal, parameters);
    return refused ? { [refused.name]: refusalText(refusal, refused) } : {};
  });
  const fields = parameters.map((parameter) => ({
    parameter,
    value: values[parameter.name] ?? "",
    error: errors[parameter.name] ?? null,
    change: (value: string) => {
      form.change({ ...values, [parameter.name]: value });
      setErrors(({ [parameter.name]: _, ...others }) => others);
    },
  }));
  const submit = () => {
    const given: Record<string, string> = {};
    const wrong: Record<string, string> = {};
    for (const { parameter, value: typed } of fields) {
      const value = bare(typed, parameter);
      if (value) given[parameter.name] = value;
      if (value ? !matches(value, parameter) : parameter.required) wrong[parameter.name] = messages.parameterError(parameter, value);
    }
    setErrors(wrong);
    if (Object.keys(wrong).length > 0) {
      form.change({ ...values, ...given });
      return false;
    }
    form.connect(given);
    return true;
  };
  return { fields, submit };
}

/** The service's text, with the field's title in place of its name. */
function refusalText(error: Error, { name, title }: Parameter): string {
  return error.message.replace(`\`parameters.${name}\``, title);
}

/** A value without the parts of the address that stand before and after its field, which users paste along. */
function bare(typed: string, { prefix, suffix }: Parameter): string {
  let value = typed.trim();
  if (prefix && value.startsWith(prefix)) value = value.slice(prefix.length);
  if (suffix && value.replace(/\/$/, "").endsWith(suffix)) value = value.replace(/\/$/, "").slice(0, -suffix.length);
  return value;
}

function matches(value: string, { pattern }: Parameter): boolean {
  try {
    return !pattern || new RegExp(`^(?:${pattern})$`).test(value);
  } catch {
    // A pattern that this browser cannot read: the service checks it.
    return true;
  }
}
