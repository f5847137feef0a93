export { ConnectionHistory } from "./ConnectionHistory.js";
export { DisconnectQuestion } from "./DisconnectQuestion.js";
export { RenameForm } from "./RenameForm.js";
export { AccountIdentity } from "./AccountIdentity.js";
export { MissingScopes } from "./MissingScopes.js";
