/** Fields that have to be there, as `name:type`, or the name alone of a text. Written by shapes.mjs: `npm run types`. */
export const SHAPES: Readonly<Record<string, string>> = {
  CallbackResponse: "success:b connection_id connector_id connector_slug status message",
  Category: "name count:n",
  Connection: "id user_id connector_id connector_slug connector_name instance_id status config:o same_account_as:[s error_count:n created_at:d updated_at:d version:n",
  ConnectionEvent: "id connection_id version:n kind status created_at:d",
  ConnectionList: "connections:[Connection total_count:n",
  Connector: "id slug name category logo_url integration_key enabled:b available:b listed:b identifies_account:b parameters:[ConnectorParameter",
  ConnectorList: "connectors:[Connector total_count:n categories:[Category",
  ConnectorParameter: "name title required:b",
  ConnectResponse: "connection_id popup:b already_connected:b message status",
  DisconnectResponse: "success:b connection_id status upstream_deleted:b message",
  EventList: "events:[ConnectionEvent",
};
