-- The catalog, as last seeded by a starting replica: what connections refer to.
create table connector (
    id uuid primary key,
    slug text not null unique,
    name text not null,
    category text not null,
    provider text,
    integration_key text not null,
    auth_mode text,
    enabled boolean not null,
    manifest jsonb not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

-- Who is connected to what, and why not if not. Never holds a provider's token.
create table user_connector_connection (
    id uuid primary key,
    user_id text not null check (char_length(user_id) between 1 and 255),
    connector_id uuid not null references connector (id),
    instance_id text not null default '' check (char_length(instance_id) <= 255),
    label text check (char_length(label) between 1 and 255),
    nango_connection_id text unique,
    nango_created_at timestamptz,
    status text not null,
    status_reason text,
    connected_at timestamptz,
    disconnected_at timestamptz,
    last_synced_at timestamptz,
    last_checked_at timestamptz,
    config jsonb not null default '{}' check (jsonb_typeof(config) = 'object'),
    last_error text,
    error_count integer not null default 0 check (error_count >= 0),
    version bigint not null default 1,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    constraint user_connector_connection_instance_key unique (user_id, connector_id, instance_id),
    -- A Nango connection is known with the time Nango made it, or not at all.
    constraint user_connector_connection_upstream check (
        (nango_connection_id is null) = (nango_created_at is null)
    ),
    -- The mixes of columns that the domain knows, and no other.
    constraint user_connector_connection_state check (
        case status
            when 'pending' then status_reason is not distinct from 'awaiting_authorization'
            when 'connected' then status_reason is null
                and nango_connection_id is not null and connected_at is not null
            when 'disconnected' then status_reason is not null
                and nango_connection_id is null and disconnected_at is not null
            when 'error' then status_reason is not null
            else false
        end
    )
);

-- The unique key serves look-ups by user, and by user and connector. Nango's id
-- has its own. These two serve the catalog's counts and the operator's view.
create index user_connector_connection_connector on user_connector_connection (connector_id);
create index user_connector_connection_status on user_connector_connection (status);
-- The list: one user's connections, newest first (ids are in order of creation).
create index user_connector_connection_list on user_connector_connection (user_id, id desc);

-- One row for each time a user sets out to connect or reconnect.
create table connect_attempt (
    id uuid primary key,
    connection_id uuid not null references user_connector_connection (id) on delete cascade,
    kind text not null check (kind in ('connect', 'reconnect')),
    expires_at timestamptz not null,
    outcome text check (outcome in ('succeeded', 'failed', 'expired', 'superseded')),
    error_code text,
    error_message text,
    nango_connection_id text,
    -- A disconnect came after this attempt began: a grant of it no longer connects.
    void boolean not null default false,
    created_at timestamptz not null,
    ended_at timestamptz,
    constraint connect_attempt_end check ((outcome is null) = (ended_at is null))
);
create unique index connect_attempt_open on connect_attempt (connection_id) where outcome is null;
create index connect_attempt_expiry on connect_attempt (expires_at) where outcome is null;
create index connect_attempt_connection on connect_attempt (connection_id, created_at desc);

-- One row for each change of a connection, in the same transaction: versions have no gaps.
create table connection_event (
    id bigint generated always as identity primary key,
    connection_id uuid not null references user_connector_connection (id) on delete cascade,
    user_id text not null,
    version bigint not null,
    kind text not null,
    status text not null,
    status_reason text,
    attempt_id uuid,
    detail text,
    created_at timestamptz not null,
    constraint connection_event_version unique (connection_id, version)
);
create index connection_event_user on connection_event (user_id, id);

-- What still has to be deleted at Nango. A row goes when Nango has confirmed.
create table upstream_deletion (
    nango_connection_id text primary key,
    integration_key text not null,
    connection_id uuid,
    attempts integer not null default 0,
    last_error text,
    next_attempt_at timestamptz not null,
    leased_until timestamptz,
    created_at timestamptz not null
);
create index upstream_deletion_due on upstream_deletion (next_attempt_at);
