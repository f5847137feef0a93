import { PatchbayError, type Parameter } from "@patchbay/client";
import { useState } from "react";
import type { ConnectMessages } from "./messages.js";

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
  /** The values to connect with; null if one is wrong, which its field then says. */
  submit: () => Record<string, string> | null;
}

/** The state of a form for a connector's parameters. `refusal` is the service's last error, which may concern one of them. */
export function useParameters(parameters: readonly Parameter[], refusal: Error | null, messages: ConnectMessages): UseParameters {
  const [values, setValues] = useState<Record<string, string>>({});
  const [errors, setErrors] = useState<Record<string, string>>({});
  // A refusal holds until the field is changed.
  const [answered, setAnswered] = useState<Error | null>(null);
  if (refusal && refusal !== answered) {
    setAnswered(refusal);
    const parameter = refusedParameter(refusal, parameters);
    if (parameter) setErrors({ [parameter.name]: refusalText(refusal, parameter) });
  }
  const fields = parameters.map((parameter) => ({
    parameter,
    value: values[parameter.name] ?? "",
    error: errors[parameter.name] ?? null,
    change: (value: string) => {
      setValues({ ...values, [parameter.name]: value });
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
    setValues({ ...values, ...given });
    setErrors(wrong);
    return Object.keys(wrong).length > 0 ? null : given;
  };
  return { fields, submit };
}

/** The parameter that the service has refused; undefined if the error is another. */
export function refusedParameter(error: Error, parameters: readonly Parameter[]): Parameter | undefined {
  if (!(error instanceof PatchbayError) || error.code !== "invalid_request") return undefined;
  return parameters.find(({ name }) => error.detail.includes(`\`parameters.${name}\``));
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
