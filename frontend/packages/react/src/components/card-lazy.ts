import { loadable } from "./loadable.js";

/** What a card shows only after something has happened, loaded together. */
const parts = () => import("./card-parts.js");
export const ConnectionHistory = /* @__PURE__ */ loadable(parts, (module) => module.ConnectionHistory);
export const RenameForm = /* @__PURE__ */ loadable(parts, (module) => module.RenameForm);
export const DisconnectQuestion = /* @__PURE__ */ loadable(parts, (module) => module.DisconnectQuestion);
