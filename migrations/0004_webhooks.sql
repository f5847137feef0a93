-- What webhooks tell of a change: the whole message, as it was then. Null where nothing is told of it.
alter table connection_event add column webhook json;

-- Where the product is told. The secrets sign what is sent, so they are kept as they are.
create table webhook_endpoint (
    id text primary key,
    url text not null check (char_length(url) between 1 and 2000),
    -- The types that it is told of; empty for all.
    events text[] not null default '{}',
    secret text not null,
    -- Signs beside the other until its time is over.
    old_secret text,
    old_secret_until timestamptz,
    -- Since when nothing has arrived there.
    failing_since timestamptz,
    off_since timestamptz,
    off_reason text,
    created_at timestamptz not null,
    constraint webhook_endpoint_old_secret check ((old_secret is null) = (old_secret_until is null)),
    constraint webhook_endpoint_off check ((off_since is null) = (off_reason is null))
);

-- One message for one endpoint: to be delivered, or what has become of it.
create table webhook_delivery (
    id bigint generated always as identity primary key,
    endpoint_id text not null references webhook_endpoint (id) on delete cascade,
    connection_id uuid not null,
    event_id bigint not null references connection_event (id) on delete cascade,
    attempts integer not null default 0,
    last_status smallint,
    last_error text,
    last_attempt_at timestamptz,
    created_at timestamptz not null,
    outcome text check (outcome in ('delivered', 'given_up')),
    ended_at timestamptz,
    constraint webhook_delivery_end check ((outcome is null) = (ended_at is null))
);
-- What waits, in order: the first of each connection is the next to be sent.
create index webhook_delivery_waiting on webhook_delivery (endpoint_id, connection_id, id) where ended_at is null;
create index webhook_delivery_age on webhook_delivery (created_at);
create index webhook_delivery_event on webhook_delivery (event_id);

-- One connection's messages for one endpoint, while some wait. Whoever has the lease sends, and nobody else.
create table webhook_queue (
    endpoint_id text not null references webhook_endpoint (id) on delete cascade,
    connection_id uuid not null references user_connector_connection (id) on delete cascade,
    next_attempt_at timestamptz not null,
    leased_until timestamptz,
    primary key (endpoint_id, connection_id)
);
create index webhook_queue_due on webhook_queue (endpoint_id, next_attempt_at);
create index webhook_queue_leased on webhook_queue (endpoint_id, leased_until) where leased_until is not null;
create index webhook_queue_connection on webhook_queue (connection_id);
