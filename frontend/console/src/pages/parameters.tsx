import type { ConnectForm, ParameterField } from "@patchbay/react";
import { useEffect, useId, useReducer, useRef } from "react";
import { Dialog } from "../ui/parts.js";

/** Asks for what a connector's provider needs of the account, before the window opens. */
export function ParametersDialog({ form, name }: { form: ConnectForm; name: string }) {
  const element = useRef<HTMLFormElement>(null);
  const [failures, failed] = useReducer((count: number) => count + 1, 0);
  useEffect(() => {
    const field = element.current?.querySelector<HTMLElement>("[aria-invalid=true]") ?? element.current?.querySelector("input");
    if (form.isOpen) field?.focus();
  }, [form.isOpen, failures]);
  if (!form.isOpen) return null;
  return (
    <Dialog title={`Connect ${name}`} onClose={form.cancel}>
      <form
        ref={element}
        noValidate
        className="stack"
        onSubmit={(event) => {
          event.preventDefault();
          if (!form.connect()) failed();
        }}
      >
        {form.fields.map((field) => (
          <Field key={field.parameter.name} field={field} />
        ))}
        <div className="actions">
          <button type="button" className="button" onClick={form.cancel}>
            Cancel
          </button>
          <button className="button primary">Connect</button>
        </div>
      </form>
    </Dialog>
  );
}

function Field({ field: { parameter, value, error, change } }: { field: ParameterField }) {
  const id = useId();
  const { title, description, example, prefix, suffix, required } = parameter;
  return (
    <div className="field">
      <label htmlFor={id}>
        {title}
        {!required && " (optional)"}
      </label>
      <span className="affixed">
        {prefix && <span className="quiet">{prefix}</span>}
        <input
          id={id}
          className="input"
          value={value}
          required={required}
          maxLength={500}
          autoComplete="off"
          autoCapitalize="none"
          spellCheck={false}
          aria-invalid={error !== null}
          aria-describedby={`${id}-hint ${id}-error`}
          onChange={(event) => change(event.target.value)}
        />
        {suffix && <span className="quiet">{suffix}</span>}
      </span>
      <span id={`${id}-hint`} className="quiet small">
        {description} {example && `Example: ${example}`}
      </span>
      <span id={`${id}-error`} className="wrong small" role="alert">
        {error}
      </span>
    </div>
  );
}
