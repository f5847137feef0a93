import { loadable } from "./loadable.js";

/** What a button shows only after something has happened, loaded together. */
const parts = () => import("./button-parts.js");
export const FlowActions = /* @__PURE__ */ loadable(parts, (module) => module.FlowActions);
export const AccountLine = /* @__PURE__ */ loadable(parts, (module) => module.AccountLine);
export const AccountChoice = /* @__PURE__ */ loadable(parts, (module) => module.AccountChoice);
export const ParameterForm = /* @__PURE__ */ loadable(parts, (module) => module.ParameterForm);
