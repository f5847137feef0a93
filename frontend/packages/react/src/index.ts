"use client";

/** Connect buttons that always tell the truth: Patchbay's React components and hooks, and the client beneath them. */
export type * from "@patchbay/client";
// By name: Next refuses `export *` of values in a module with "use client".
export {
  accountName,
  accountOf,
  allPages,
  backoff,
  best,
  Client,
  ConnectFlow,
  connectFlow,
  connectOnce,
  createClient,
  EventStream,
  Flows,
  freeInstance,
  isFromElsewhere,
  isOf,
  missingScopes,
  nameOf,
  NotConnectedError,
  PatchbayError,
  plain,
} from "@patchbay/client";

export { ConnectButton, type ConnectButtonProps } from "./components/ConnectButton.js";
export { ConnectionCard, type ConnectionCardProps } from "./components/ConnectionCard.js";
export { ConnectionManager, type ConnectionManagerProps } from "./components/ConnectionManager.js";
export { ConnectionPicker, type ConnectionPickerProps } from "./components/ConnectionPicker.js";
export { ConnectionStatus, type ConnectionStatusProps } from "./components/ConnectionStatus.js";
export { ConnectorCatalog, type ConnectorCatalogProps } from "./components/ConnectorCatalog.js";
export { ConnectorLogo, logoUrl } from "./components/ConnectorLogo.js";
export { ErrorNotice } from "./components/ErrorNotice.js";
export { errorText } from "./components/errorText.js";
export { ConnectionHistory, DisconnectQuestion } from "./components/card-lazy.js";
export type { DisconnectQuestionProps } from "./components/DisconnectQuestion.js";
export { AccountChoice, ParameterForm } from "./components/lazy.js";
export type { ParameterFormProps } from "./components/ParameterForm.js";
export { FlowNotice, type FlowNoticeProps } from "./components/FlowNotice.js";
export { flowText } from "./components/flowMessage.js";

export { RECOVERING } from "./react/cache.js";
export { usePatchbay, type LogoOf, type Patchbay } from "./react/context.js";
export { defaultMessages, type ConnectMessages, type MessageOverrides, type Messages } from "./react/messages.js";
export { PatchbayProvider, type PatchbayProviderProps } from "./react/provider.js";
export { useConnect, type UseConnect, type UseConnectOptions } from "./react/useConnect.js";
export { useConnectForm, type ConnectForm } from "./react/useConnectForm.js";
export { useConnector } from "./react/useConnector.js";
export { useConnection, type UseConnection } from "./react/useConnection.js";
export { useConnectionActions, type ConnectionActions } from "./react/useConnectionActions.js";
export { useConnectionHistory, type UseConnectionHistory } from "./react/useConnectionHistory.js";
export { useConnections, type AccountToConnect, type AccountToDisconnect, type ConnectionListing, type UseConnections } from "./react/useConnections.js";
export { useConnectors, type UseConnectors, type UseConnectorsOptions } from "./react/useConnectors.js";
export { useMessages } from "./react/useMessages.js";
export { useSession, type UseSession } from "./react/useSession.js";
