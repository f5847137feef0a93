/** The wire's types by their short names; `api.gen.ts` is generated from the service's OpenAPI document. */
import type { components, operations } from "./api.gen.js";

type Schemas = components["schemas"];

/** An account of a user's at a provider, and how it stands. */
export type Connection = Schemas["Connection"];
/** An attempt to authorize a connection. */
export type Attempt = Schemas["Attempt"];
/** An account at a provider. */
export type Account = Schemas["Account"];
/** A connector of the catalog. */
export type Connector = Schemas["Connector"];
/** A value that a connector's provider needs of each account, such as a subdomain. */
export type Parameter = Schemas["ConnectorParameter"];
/** A category of the catalog, with how many connectors it has. */
export type Category = Schemas["Category"];
/** Where a connection stands, in one word. */
export type Status = Schemas["Status"];
/** A reason why a connection is not connected that this version knows. A newer service may send others. */
export type Reason = Schemas["KnownReason"];
/** One change of a connection. */
export type ConnectionEvent = Schemas["ConnectionEvent"];
/** A kind of event that this version knows. A newer service may send others. */
export type EventKind = Schemas["KnownEventKind"];
/** The service's own error codes that this version knows. */
export type ProblemCode = Schemas["KnownProblemCode"];

/** A value for each known name. Others, of a newer service, may be missing. */
export type ByName<Known extends string, Value> = Record<Known, Value> & { readonly [other: string]: Value | undefined };

/** A page of the catalog. */
export type ConnectorPage = Schemas["ConnectorList"];
/** A page of connections, newest first. */
export type ConnectionPage = Schemas["ConnectionList"];
/** A page of a connection's history, the newest first. */
export type HistoryPage = Schemas["EventList"];
/** What comes of a connect or reconnect. */
export type ConnectAnswer = Schemas["ConnectResponse"];
/** What comes of a disconnect or a removal. */
export type DisconnectAnswer = Schemas["DisconnectResponse"];
/** How a connection stands after the popup. */
export type CallbackAnswer = Schemas["CallbackResponse"];

/** What may be said with a connect. */
export type ConnectDetails = Schemas["ConnectRequest"];
/** What may be changed of a connection; what is left out stays. */
export type ConnectionChange = Schemas["UpdateConnectionRequest"];

type QueryOf<Name extends keyof operations> = Optional<NonNullable<operations[Name]["parameters"]["query"]>>;
type Optional<Fields> = { [Name in keyof Fields]?: Fields[Name] | undefined };

/** Which connectors to list. */
export type ConnectorQuery = QueryOf<"listConnectors">;
/** Which connections to list. */
export type ConnectionQuery = QueryOf<"listConnections">;
/** Which page of a history. */
export type HistoryQuery = QueryOf<"listHistory">;
