import type { ButtonHTMLAttributes, ReactNode, Ref } from "react";

/** Props of `Button`. */
export interface ButtonProps extends ButtonHTMLAttributes<HTMLButtonElement> {
  kind?: "primary" | "quiet" | "danger" | undefined;
  /** Whether it does nothing now. It keeps the keyboard's focus, which `disabled` would take away. */
  off?: boolean | undefined;
  buttonRef?: Ref<HTMLButtonElement> | undefined;
}

/** A button. */
export function Button({ kind, off, onClick, buttonRef, ...rest }: ButtonProps): ReactNode {
  return (
    <button
      type="button"
      data-patchbay="button"
      {...(kind && { [`data-${kind}`]: "" })}
      ref={buttonRef}
      aria-disabled={off || undefined}
      onClick={off ? undefined : onClick}
      {...rest}
    />
  );
}
