-- Nango's serial number of the connection. It orders two grants where their times cannot.
alter table user_connector_connection add column nango_serial bigint;
