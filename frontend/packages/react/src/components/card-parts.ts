export { ConnectionHistory } from "./ConnectionHistory.js";
export { DisconnectQuestion } from "./DisconnectQuestion.js";
export { RenameForm } from "./RenameForm.js";
