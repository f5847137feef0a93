import { lazyModule, loadable } from "./loadable.js";

/** What a button shows only after something has happened. */
export const buttonParts = /* @__PURE__ */ lazyModule(() => import("./button-parts.js"));
export const FlowActions = /* @__PURE__ */ loadable(buttonParts, (module) => module.FlowActions);
export const FlowText = /* @__PURE__ */ loadable(buttonParts, (module) => module.FlowText);
export const AccountLine = /* @__PURE__ */ loadable(buttonParts, (module) => module.AccountLine);
export const AccountChoice = /* @__PURE__ */ loadable(buttonParts, (module) => module.AccountChoice);
export const ParameterForm = /* @__PURE__ */ loadable(buttonParts, (module) => module.ParameterForm);
