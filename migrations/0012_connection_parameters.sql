-- What a connection's provider has to know of the account besides the authorization, such as a subdomain: names and texts.
alter table user_connector_connection
    add column parameters jsonb not null default '{}' check (jsonb_typeof(parameters) = 'object');
