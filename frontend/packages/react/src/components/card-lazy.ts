import { lazyModule, loadable } from "./loadable.js";

/** What a card shows only after something has happened. */
export const cardParts = /* @__PURE__ */ lazyModule(() => import("./card-parts.js"));
export const ConnectionHistory = /* @__PURE__ */ loadable(cardParts, (module) => module.ConnectionHistory);
export const RenameForm = /* @__PURE__ */ loadable(cardParts, (module) => module.RenameForm);
export const DisconnectQuestion = /* @__PURE__ */ loadable(cardParts, (module) => module.DisconnectQuestion);
export const AccountIdentity = /* @__PURE__ */ loadable(cardParts, (module) => module.AccountIdentity);
export const MissingScopes = /* @__PURE__ */ loadable(cardParts, (module) => module.MissingScopes);
