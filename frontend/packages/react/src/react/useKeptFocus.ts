import { useEffect, useRef, type RefObject } from "react";

/**
 * Keeps the keyboard's focus within an element: when the control that has it goes away, the element's first control of a
 * kind has it. Without this it falls to the page, and the keyboard begins at its top.
 */
export function useKeptFocus<Kept extends HTMLElement>(kind = "button"): RefObject<Kept | null> {
  const kept = useRef<Kept>(null);
  const inside = useRef(false);
  useEffect(() => {
    const entered = ({ target }: FocusEvent) => {
      inside.current = kept.current?.contains(target as Node) ?? false;
    };
    // Some browsers report it of what is removed, too.
    const left = ({ target }: FocusEvent) =>
      queueMicrotask(() => {
        if ((target as Node).isConnected && document.activeElement === document.body) inside.current = false;
      });
    document.addEventListener("focusin", entered);
    document.addEventListener("focusout", left);
    return () => {
      document.removeEventListener("focusin", entered);
      document.removeEventListener("focusout", left);
    };
  }, []);
  useEffect(() => {
    if (inside.current && document.activeElement === document.body) kept.current?.querySelector<HTMLElement>(kind)?.focus();
  });
  return kept;
}
