export { AccountChoice } from "./AccountChoice.js";
export { AccountLine } from "./AccountLine.js";
export { FlowActions } from "./FlowActions.js";
export { FlowText } from "./FlowText.js";
export { ParameterForm } from "./ParameterForm.js";
