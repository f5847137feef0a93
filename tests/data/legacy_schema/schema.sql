-- The tables of the service that Patchbay succeeds, as its migrations made them.
create table "user" (
    id uuid not null,
    email varchar(255) not null,
    is_active boolean not null,
    constraint user_pkey primary key (id)
);
create table connector (
    id uuid not null,
    slug varchar not null,
    name varchar not null,
    category varchar,
    manifest json not null,
    created_at timestamp without time zone not null,
    updated_at timestamp without time zone not null,
    constraint connector_pkey primary key (id)
);
create unique index ix_connector_slug on connector (slug);
create table user_connector_connection (
    id uuid not null,
    user_id uuid not null,
    connector_id uuid not null,
    nango_connection_id varchar not null,
    status varchar not null,
    connected_at timestamp without time zone,
    disconnected_at timestamp without time zone,
    last_synced_at timestamp without time zone,
    config json,
    last_error varchar,
    error_count integer not null,
    created_at timestamp without time zone not null,
    updated_at timestamp without time zone not null,
    constraint user_connector_connection_pkey primary key (id),
    constraint user_connector_connection_nango_connection_id_key unique (nango_connection_id),
    constraint user_connector_connection_user_id_fkey foreign key (user_id) references "user" (id),
    constraint user_connector_connection_connector_id_fkey foreign key (connector_id) references connector (id)
);
create index ix_user_connector_connection_user_id on user_connector_connection (user_id);
create index ix_user_connector_connection_connector_id on user_connector_connection (connector_id);
create index ix_user_connector_connection_nango_connection_id on user_connector_connection (nango_connection_id);
create index ix_user_connector_connection_status on user_connector_connection (status);
create index ix_user_connector_connection_user_connector on user_connector_connection (user_id, connector_id);
