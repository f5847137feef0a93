import { useEffect, useReducer, type ComponentType, type ReactNode } from "react";
import { persistently } from "../react/persistently.js";

/** A component of a module that is loaded when it is first shown, or before, by `preload`. Nothing is shown meanwhile. */
export function loadable<Module, Props extends object>(
  load: () => Promise<Module>,
  pick: (module: Module) => ComponentType<Props>,
): ((props: Props) => ReactNode) & { preload: () => Promise<void> } {
  let Loaded: ComponentType<Props> | undefined;
  const preload = async () => {
    Loaded ??= pick(await persistently(load));
  };
  function Loadable(props: Props): ReactNode {
    const [, show] = useReducer((count: number) => count + 1, 0);
    useEffect(() => {
      let shown = true;
      if (!Loaded) void preload().then(() => shown && show());
      return () => {
        shown = false;
      };
    }, []);
    return Loaded && <Loaded {...props} />;
  }
  return Object.assign(Loadable, { preload });
}
