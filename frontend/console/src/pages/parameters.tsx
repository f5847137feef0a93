import { ParameterForm, type ConnectForm } from "@patchbay/react";
import { Dialog } from "../ui/parts.js";

/** Asks for the values that a connector's provider needs of the account, before the window opens. */
export function ParametersDialog({ form, name }: { form: ConnectForm; name: string }) {
  if (!form.isOpen) return null;
  return (
    <Dialog label={`Connect ${name}`} onClose={form.cancel}>
      <h2>Connect {name}</h2>
      <ParameterForm form={form} name={name} />
    </Dialog>
  );
}
