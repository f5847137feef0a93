/** The wire's types by their short names; `api.gen.ts` is generated from the service's OpenAPI document. */
import type { components, operations } from "./api.gen.js";

type Schemas = components["schemas"];

/** An account of a user's at a provider, and how it stands. */
export type Connection = Schemas["ConnectionBody"];
/** An attempt to authorize a connection. */
export type Attempt = Schemas["AttemptBody"];
/** An account at a provider. */
export type Account = Schemas["Account"];
/** A connector of the catalog. */
export type Connector = Schemas["ConnectorBody"];
/** A value that a connector's provider needs of each account, such as a subdomain. */
export type Parameter = Schemas["Parameter"];
/** A category of the catalog, with how many connectors it has. */
export type Category = Schemas["CategoryBody"];
/** Where a connection stands, in one word. */
export type Status = Schemas["Status"];
/** Why a connection is not connected. */
export type Reason = Schemas["Reason"];
/** One change of a connection. */
export type ConnectionEvent = Schemas["Event"];
/** What a change of a connection was. */
export type EventKind = Schemas["EventKind"];
/** The service's own error codes. */
export type ProblemCode = Schemas["Code"];

/** A page of the catalog. */
export type ConnectorPage = Schemas["ConnectorsBody"];
/** A page of connections, newest first. */
export type ConnectionPage = Schemas["ConnectionsBody"];
/** A page of a connection's history, the newest first. */
export type HistoryPage = Schemas["HistoryBody"];
/** What comes of a connect or reconnect. */
export type ConnectAnswer = Schemas["ConnectAnswer"];
/** What comes of a disconnect or a removal. */
export type DisconnectAnswer = Schemas["DisconnectAnswer"];
/** How a connection stands after the popup. */
export type CallbackAnswer = Schemas["CallbackAnswer"];

/** What may be said with a connect. */
export type ConnectDetails = Schemas["ConnectBody"];
/** What may be changed of a connection; what is left out stays. */
export type ConnectionChange = Schemas["UpdateBody"];

type QueryOf<Name extends keyof operations> = Optional<NonNullable<operations[Name]["parameters"]["query"]>>;
type Optional<Fields> = { [Name in keyof Fields]?: Fields[Name] | undefined };

/** Which connectors to list. */
export type ConnectorQuery = QueryOf<"list_connectors">;
/** Which connections to list. */
export type ConnectionQuery = QueryOf<"list_connections">;
/** Which page of a history. */
export type HistoryQuery = QueryOf<"list_history">;
