import { useEffect, useId, useReducer, useRef, type ReactNode } from "react";
import { useConnectMessages } from "../react/useConnectMessages.js";
import type { ConnectForm } from "../react/useConnectForm.js";
import { useParameters, type ParameterField } from "../react/useParameters.js";
import { Button } from "./Button.js";

/** Props of `ParameterForm`. */
export interface ParameterFormProps {
  form: ConnectForm;
  /** What a person calls the connector. */
  name: string;
}

/** Asks for what a connector's provider needs of the account. Escape cancels. */
export function ParameterForm({ form, name }: ParameterFormProps): ReactNode {
  const messages = useConnectMessages();
  const { fields, submit } = useParameters(form, messages);
  const element = useRef<HTMLFormElement>(null);
  const [failures, failed] = useReducer((count: number) => count + 1, 0);
  useEffect(() => (element.current?.querySelector<HTMLElement>("[aria-invalid]") ?? element.current?.querySelector("input"))?.focus(), [failures]);
  return (
    <form
      ref={element}
      noValidate
      data-patchbay="parameters"
      aria-label={messages.connect(name)}
      onSubmit={(event) => {
        event.preventDefault();
        if (!submit()) failed();
      }}
      onKeyDown={(event) => {
        if (event.key === "Escape") form.cancel();
      }}
    >
      {fields.map((field) => (
        <Field key={field.parameter.name} field={field} />
      ))}
      <Button type="submit" kind="primary">
        {messages.connect(name)}
      </Button>
      <Button onClick={form.cancel}>{messages.dismiss}</Button>
    </form>
  );
}

function Field({ field: { parameter, value, error, change } }: { field: ParameterField }): ReactNode {
  const messages = useConnectMessages();
  const id = useId();
  const { title, description, example, prefix, suffix, required } = parameter;
  return (
    <div data-patchbay="parameter">
      <label htmlFor={id}>{required ? title : messages.optional(title)}</label>
      <span data-patchbay="parameter-value" dir="ltr">
        {prefix && <span>{prefix}</span>}
        <input
          id={id}
          data-patchbay="input"
          value={value}
          required={required}
          maxLength={500}
          autoComplete="off"
          autoCapitalize="none"
          spellCheck={false}
          aria-invalid={error !== null || undefined}
          aria-describedby={`${id}-error ${id}-hint`}
          onChange={(event) => change(event.target.value)}
        />
        {suffix && <span>{suffix}</span>}
      </span>
      <small id={`${id}-hint`} data-patchbay="parameter-hint">
        {description} {example && messages.example(example)}
      </small>
      <span id={`${id}-error`} data-patchbay="parameter-error" role="alert">
        {error}
      </span>
    </div>
  );
}
