/** Fields that have to be there, as `name:type`, or the name alone of a text. Written by shapes.mjs: `npm run types`. */
export const SHAPES: Readonly<Record<string, string>> = {
  CallbackAnswer: "success:b connection_id connector_id connector_slug status message",
  CategoryBody: "name count:n",
  ConnectAnswer: "connection_id popup:b already_connected:b message status",
  ConnectionBody: "id user_id connector_id connector_slug connector_name instance_id status config:o same_account_as:[s error_count:n created_at:d updated_at:d version:n",
  ConnectionsBody: "connections:[ConnectionBody total_count:n",
  ConnectorBody: "id slug name category integration_key enabled:b available:b parameters:[Parameter",
  ConnectorsBody: "connectors:[ConnectorBody total_count:n categories:[CategoryBody",
  DisconnectAnswer: "success:b connection_id status upstream_deleted:b message",
  Event: "id connection_id version:n kind status created_at:d",
  HistoryBody: "events:[Event",
  Parameter: "name title required:b",
};
