import { useEffect, type RefObject } from "react";

/**
 * Keeps the keyboard's focus nearby when the control that has it goes away: on the first control of what is left around it.
 * Without this it falls to the page, and the keyboard begins at its top.
 */
export function useFocusNearby(main: RefObject<HTMLElement | null>): void {
  useEffect(() => {
    const root = main.current;
    if (!root) return;
    let around: Element[] = [];
    const note = ({ target }: FocusEvent) => {
      around = [];
      for (let element = target as Element | null; element && element !== root; element = element.parentElement) around.push(element);
      if (!root.contains(target as Node)) around = [];
    };
    const keep = () => {
      const [had, ...others] = around;
      if (!had || had.isConnected || document.activeElement !== document.body) return;
      const homes = [...others.filter((element) => element.isConnected), root];
      const controls = homes.map((home) => home.querySelector<HTMLElement>("button, input") ?? home.querySelector<HTMLElement>("a"));
      (controls.find((control) => control !== null) ?? root).focus();
    };
    const observer = new MutationObserver(keep);
    observer.observe(root, { childList: true, subtree: true });
    document.addEventListener("focusin", note);
    return () => {
      observer.disconnect();
      document.removeEventListener("focusin", note);
    };
  }, [main]);
}
