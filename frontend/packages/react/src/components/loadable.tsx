import { useEffect, useReducer, type ComponentType, type ReactNode } from "react";
import { persistently } from "../react/persistently.js";

/** A module that is loaded apart. */
export interface LazyModule<Module> {
  /** Undefined until it is loaded. */
  module: Module | undefined;
  load: () => Promise<void>;
}

export function lazyModule<Module>(load: () => Promise<Module>): LazyModule<Module> {
  let loading: Promise<void> | undefined;
  const begin = async () => {
    lazy.module = await persistently(load);
  };
  // One load for all components, however often it has to be repeated.
  const lazy: LazyModule<Module> = { module: undefined, load: () => (loading ??= begin()) };
  return lazy;
}

/** A component of a module that is loaded apart, at the latest when it is first shown. Meanwhile its `fallback` is shown, if any. */
export function loadable<Module, Props extends object>(
  lazy: LazyModule<Module>,
  pick: (module: Module) => ComponentType<Props>,
): (props: Props & { fallback?: ReactNode }) => ReactNode {
  return function Loadable({ fallback, ...props }: Props & { fallback?: ReactNode }): ReactNode {
    const [, show] = useReducer((count: number) => count + 1, 0);
    useEffect(() => {
      let shown = true;
      if (!lazy.module) void lazy.load().then(() => shown && show());
      return () => {
        shown = false;
      };
    }, []);
    const Loaded = lazy.module && pick(lazy.module);
    return Loaded ? <Loaded {...(props as unknown as Props)} /> : fallback;
  };
}
