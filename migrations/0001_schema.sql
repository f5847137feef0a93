-- The keys of every table of users' data begin with `user_id`, so that all rows of one user can live on one shard.
-- Tables without `user_id` in their primary key stay on one node: the catalog, the endpoints, the keys of services and
-- the queues. A queue refers to users' rows without a foreign key, because those may live elsewhere. Whoever claims an
-- entry skips and removes it when its row is gone. docs/ARCHITECTURE.md ("The database") has the rules.

-- A time that the program can read and JSON can show.
create domain utc_time as timestamptz
    constraint utc_time_range check (value >= '1970-01-01 00:00:00+00' and value < '10000-01-01 00:00:00+00');

-- A user's id, by the rules of `UserId`: without control characters, white space at an end, and the segments . and ..
create domain user_id_text as text
    constraint user_id_text_form check (
        char_length(value) between 1 and 255
        and value not in ('.', '..')
        and value collate "C" !~ '[\u0001-\u001f\u007f-\u009f]'
        and value collate "C" !~ '^[ \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]'
        and value collate "C" !~ '[ \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]$'
    );

-- The closed sets of names that the program knows. A migration that adds a name replaces the constraint.
create domain connection_status_text as text
    constraint connection_status_known check (value in ('pending', 'connected', 'disconnected', 'error'));

create domain status_reason_text as text
    constraint status_reason_known check (value in (
        'awaiting_authorization', 'authorization_denied', 'authorization_failed', 'attempt_expired', 'nango_unavailable',
        'nango_refused', 'needs_reauthorization', 'missing_upstream', 'account_mismatch', 'user_disconnected',
        'authorization_canceled', 'removed'
    ));

create domain attempt_kind_text as text
    constraint attempt_kind_known check (value in ('connect', 'reconnect'));

create domain attempt_outcome_text as text
    constraint attempt_outcome_known check (value in ('succeeded', 'failed', 'expired', 'superseded', 'canceled'));

-- This installation. `id` marks its connections at Nango; the next columns identify the database it was last served
-- from, so that a restored or copied database is noticed. Null: not recorded yet.
create table installation (
    only_row boolean primary key default true check (only_row),
    id uuid not null default gen_random_uuid(),
    -- The database was copied from another installation's, whose connections at Nango its rows may name.
    is_copy boolean not null default false,
    -- pg_control_system().system_identifier: the database cluster.
    system_identifier bigint,
    database_oid bigint,
    database_name text,
    -- The object identifier of this table, which a restored dump does not keep.
    table_oid bigint,
    public_url text,
    -- When an operator confirmed the Nango environment: connections from before do not identify it.
    nango_confirmed_at utc_time,
    -- The integrations of the Nango environment by key, with the time of their creation: another environment's have
    -- other times. Null: not recorded yet.
    nango_integrations jsonb check (jsonb_typeof(nango_integrations) = 'object'),
    -- How many connections of this installation at Nango belong to no row, by the last sweep.
    orphans bigint not null default 0,
    created_at utc_time not null default now()
);
insert into installation default values;

-- Stops one kind of change that no user asked for, when too many come within an hour, until an operator releases it.
create table brake (
    kind text primary key check (kind in ('missing', 'dead', 'deletions')),
    -- The users with a change since `counted_since`, for an hour.
    count bigint not null default 0,
    counted_since utc_time not null default now(),
    engaged_at utc_time,
    released_until utc_time
);
insert into brake (kind) values ('missing'), ('dead'), ('deletions');

-- The users that a brake has counted.
create table brake_user (
    kind text not null,
    user_hash bytea not null,
    primary key (user_hash, kind)
);

-- The catalog, as last written by a starting replica. Its integration keys and providers are for new connects only.
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
    created_at utc_time not null default now(),
    updated_at utc_time not null default now()
);

-- Which account a user is connected to, and why the connection fails if it does. Never stores a provider's token.
create table user_connector_connection (
    user_id user_id_text not null,
    id uuid not null,
    connector_id uuid not null references connector (id),
    instance_id text not null default '' check (char_length(instance_id) <= 255),
    label text check (char_length(label) between 1 and 255),

    -- The connection at Nango: its id, its creation, its serial number (which orders two grants where their times
    -- cannot; null if imported), and the integration and provider it was made with.
    nango_connection_id text,
    nango_created_at utc_time,
    nango_serial bigint,
    integration_key text,
    provider text,

    status connection_status_text not null,
    status_reason status_reason_text,
    connected_at utc_time,
    disconnected_at utc_time,
    last_synced_at utc_time,
    last_checked_at utc_time,
    -- When its credentials began to fail; null while they work or are known to be dead.
    failing_since utc_time,
    -- When the provider refused to refresh its credentials and refreshed others', at least a minute apart.
    refusals timestamptz[] not null default '{}' check (
        cardinality(refusals) <= 50
        and timestamptz '1970-01-01 00:00:00+00' <= all (refusals)
        and timestamptz '10000-01-01 00:00:00+00' > all (refusals)
    ),
    -- When Nango did not have it, at least a minute apart; empty while Nango has it or the row says that it is missing.
    absences timestamptz[] not null default '{}' check (
        cardinality(absences) <= 50
        and timestamptz '1970-01-01 00:00:00+00' <= all (absences)
        and timestamptz '10000-01-01 00:00:00+00' > all (absences)
    ),
    config jsonb not null default '{}' check (jsonb_typeof(config) = 'object'),
    -- What the provider has to know of the account besides the authorization, such as a subdomain: names and texts.
    parameters jsonb not null default '{}' check (jsonb_typeof(parameters) = 'object'),
    last_error text,
    error_count integer not null default 0 check (error_count >= 0),

    -- The account at the provider, and the other account that a reauthorization returned, which the user has to accept.
    account_id text,
    account_name text,
    pending_account_id text,
    pending_account_name text,
    -- What the provider says of either beside id and name: e-mail, picture, workspace.
    account_details jsonb,
    pending_account_details jsonb,
    -- Why the account is not known; null while it is, and until the first look-up has ended.
    account_unknown_reason text,
    -- The scopes that the provider granted, and those of the requested ones that it did not; null if not known.
    scopes text[],
    missing_scopes text[],

    -- A copy of the newest attempt, kept by the statements that write attempts. Whoever reads connections reads how
    -- each was last authorized; a look-up row by row cost as much as the rest of a list.
    attempt_id uuid,
    attempt_kind attempt_kind_text,
    attempt_expires_at utc_time,
    attempt_outcome attempt_outcome_text,
    attempt_error_code status_reason_text,
    attempt_error_message text,
    attempt_invalidated boolean,
    -- Whether the browser that started it came back; null if that is not known.
    attempt_returned boolean,
    attempt_created_at utc_time,
    attempt_ended_at utc_time,

    version bigint not null default 1 check (version > 0),
    created_at utc_time not null,
    updated_at utc_time not null,

    -- Serves a user's list, newest first, too: ids are in order of creation.
    primary key (user_id, id),
    constraint user_connector_connection_instance_key unique (user_id, connector_id, instance_id),
    constraint user_connector_connection_nango_key unique (user_id, nango_connection_id),
    -- Nango's connection is known with its creation time and its integration, or not at all.
    constraint user_connector_connection_upstream check (
        (nango_connection_id is null) = (nango_created_at is null)
        and (nango_connection_id is null) = (integration_key is null)
        and (nango_connection_id is not null or (nango_serial is null and provider is null))
    ),
    -- The combinations of columns that the domain knows.
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
    ),
    constraint user_connector_connection_account check (account_id is not null or account_name is null),
    constraint user_connector_connection_pending_account check (
        (status_reason is not distinct from 'account_mismatch') = (pending_account_id is not null)
        and (pending_account_id is not null or pending_account_name is null)
    ),
    constraint user_connector_connection_attempt check (
        case
            when attempt_id is null then num_nonnulls(
                attempt_kind, attempt_expires_at, attempt_outcome, attempt_error_code, attempt_error_message,
                attempt_invalidated, attempt_returned, attempt_created_at, attempt_ended_at
            ) = 0
            else attempt_kind is not null and attempt_expires_at is not null and attempt_invalidated is not null
                and attempt_created_at is not null and (attempt_outcome is null) = (attempt_ended_at is null)
        end
    )
)
-- Room for new versions of rows on their own page: with it nine of ten uses and labels write no index, a third without.
with (fillfactor = 85);

-- By its id alone, for an operator's commands, which name no user.
create index user_connector_connection_id on user_connector_connection (id);
-- By Nango's id alone, for the sweep's listings, which name no user.
create index user_connector_connection_nango on user_connector_connection (nango_connection_id);
-- By creation at Nango, for the sweep: Nango lists its connections in this order.
create index user_connector_connection_created on user_connector_connection (nango_created_at, id)
    where nango_connection_id is not null;
-- The catalog's counts and the operator's view.
create index user_connector_connection_connector on user_connector_connection (connector_id);
create index user_connector_connection_status on user_connector_connection (status);
-- A few working connections of one connector, which tell a provider's outage from a dead grant. Without this index
-- all of the connector's are read and sorted each time that one is in doubt.
create index user_connector_connection_siblings
    on user_connector_connection (connector_id, failing_since nulls first, nango_created_at desc)
    where status = 'connected';
-- The connections that identify the Nango environment.
create index user_connector_connection_confirmed on user_connector_connection (connected_at desc)
    where status = 'connected';

-- Connections that Nango did not have when it was last queried: they are looked up again.
create index user_connector_connection_absent on user_connector_connection (user_id, id) where absences <> '{}';

-- Connected connections that were never looked up, such as imported ones: the sweep queues them.
create index user_connector_connection_unidentified on user_connector_connection (id)
    where status = 'connected' and account_id is null and account_unknown_reason is null;

-- One row for each time a user starts a connect or reconnect.
create table connect_attempt (
    user_id text not null,
    -- A UUIDv7: ids are in order of creation.
    id uuid not null,
    connection_id uuid not null,
    kind attempt_kind_text not null,
    -- The integration and provider of its session.
    integration_key text not null,
    provider text,
    -- The scopes that were requested instead of the integration's own; null if none were.
    scopes text[],
    expires_at utc_time not null,
    outcome attempt_outcome_text,
    error_code status_reason_text,
    error_message text,
    nango_connection_id text,
    -- A disconnect followed: a grant of this attempt no longer connects.
    invalidated boolean not null default false,
    -- A digest of the cookie of the browser that started it, and when that browser came back from the provider.
    browser_token_hash bytea,
    returned_at utc_time,
    created_at utc_time not null,
    ended_at utc_time,
    primary key (user_id, id),
    foreign key (user_id, connection_id) references user_connector_connection (user_id, id) on delete cascade,
    constraint connect_attempt_end check ((outcome is null) = (ended_at is null))
);
create unique index connect_attempt_open on connect_attempt (user_id, connection_id) where outcome is null;
create index connect_attempt_connection on connect_attempt (user_id, connection_id);
-- Pruning walks in order of creation; the sweep finds attempts by the ids in Nango's tags.
create index connect_attempt_id on connect_attempt (id);

-- Finds an attempt's user by the attempt, the browser or the connection alone: for Nango's webhooks, which name only an
-- attempt, and for browsers. Also the queue of attempts that expire. A row stays until no grant of the attempt can come
-- any more. If the user is erased, the attempt's id stays until then, so that a late grant is recognized and deleted.
create table attempt_owner (
    attempt_id uuid primary key,
    -- Null: the user was erased.
    user_id user_id_text,
    connection_id uuid,
    browser_token_hash bytea,
    -- When the attempt expires; afterwards, when the row is removed.
    due_at utc_time not null,
    kept_until utc_time not null,
    constraint attempt_owner_erased check (
        (user_id is null) = (connection_id is null) and (user_id is not null or browser_token_hash is null)
    )
);
create index attempt_owner_due on attempt_owner (due_at);
create index attempt_owner_connection on attempt_owner (connection_id) where connection_id is not null;
create index attempt_owner_browser on attempt_owner (browser_token_hash) where browser_token_hash is not null;

-- One row for each change of a connection, in the same transaction: versions have no gaps.
create table connection_event (
    user_id text not null,
    -- A UUIDv7 made by the program. It also names the event's webhook message, and never repeats, even after a restore.
    id uuid not null,
    -- Orders one user's events by commit: it is assigned under the user's advisory lock. Never shown: a restored
    -- database assigns the same numbers again.
    position bigint generated always as identity,
    connection_id uuid not null,
    version bigint not null check (version > 0),
    kind text not null check (kind in (
        'attempt_started', 'attempt_failed', 'connected', 'reauthorized', 'disconnected', 'updated',
        'credentials_failing', 'needs_reauthorization', 'missing_upstream', 'recovered', 'account_mismatched',
        'account_accepted', 'account_identified', 'token_refreshed', 'adopted', 'restored', 'attempt_canceled', 'removed'
    )),
    status connection_status_text not null,
    status_reason status_reason_text,
    attempt_id uuid,
    detail text,
    -- Who caused it, what the provider called the account then, and how the label changed.
    context jsonb not null default '{}',
    -- The whole webhook message, as it was then. Null if webhooks do not report the event.
    webhook json,
    -- The connection's config for the message, stored if an endpoint asks for configs.
    webhook_config jsonb,
    created_at utc_time not null,
    primary key (user_id, id),
    foreign key (user_id, connection_id) references user_connector_connection (user_id, id) on delete cascade,
    constraint connection_event_version unique (user_id, connection_id, version),
    constraint connection_event_order unique (user_id, position)
);
-- Pruning and replays walk in order of time.
create index connection_event_position on connection_event (position);

-- The audit trail of tokens: which service read which connection's token. The token itself is not stored.
-- Accesses that are the same and follow each other at once are one row with a count.
create table token_access (
    user_id text not null,
    id bigint generated always as identity,
    connection_id uuid not null,
    service text not null,
    purpose text not null check (purpose in ('token', 'proxy')),
    count integer not null default 1 check (count > 0),
    used_at utc_time not null,
    -- Serves a connection's accesses, newest first, too.
    primary key (user_id, connection_id, id),
    foreign key (user_id, connection_id) references user_connector_connection (user_id, id) on delete cascade
);
-- Pruning walks in order of time.
create index token_access_id on token_access (id);

-- Responses to requests with an Idempotency-Key. Without an answer: in progress.
create table idempotency_key (
    user_id text not null,
    key text not null check (char_length(key) between 1 and 255),
    fingerprint bytea not null,
    answer jsonb,
    created_at utc_time not null default now(),
    -- When the answer is of no more use, because its session has ended. Null if it has no session.
    expires_at utc_time,
    primary key (user_id, key)
);
create index idempotency_key_age on idempotency_key (created_at);
create index idempotency_key_expiry on idempotency_key (expires_at) where expires_at is not null;

-- Queue of connections to delete at Nango. A row is removed when Nango has confirmed.
create table upstream_deletion (
    nango_connection_id text primary key,
    integration_key text not null,
    -- Whose it was; null if the user was erased, or is not known.
    user_id user_id_text,
    connection_id uuid,
    -- A digest of the erased user's id, by which a repeated erasure finds what Nango has not confirmed.
    erased_user bytea,
    -- Why it is deleted. A replaced one waits until the one that replaced it has been seen to work.
    reason text not null check (reason in ('disconnected', 'erased', 'replaced', 'invalidated', 'orphan')),
    attempts integer not null default 0,
    last_error text,
    next_attempt_at utc_time not null,
    leased_until utc_time,
    created_at utc_time not null
);
create index upstream_deletion_due on upstream_deletion (next_attempt_at);
-- A disconnect looks for its own deletion until it is done, however many others wait.
create index upstream_deletion_connection on upstream_deletion (connection_id);
create index upstream_deletion_erased on upstream_deletion (erased_user) where erased_user is not null;

-- The sweep of all connections at Nango that is in progress, so that the next one continues where it was interrupted.
create table sweep_pass (
    only_row boolean primary key default true check (only_row),
    started_at utc_time not null,
    -- The next page of Nango's list, and the creation time of the last connection before it.
    page integer not null check (page > 0),
    before utc_time not null,
    orphans bigint not null
);

-- Queue of account look-ups. A row is removed when its look-up has ended.
create table account_lookup (
    connection_id uuid primary key,
    user_id user_id_text not null,
    attempt_id uuid,
    failures integer not null default 0,
    -- Changes when the look-up is queued again, so that the end of an earlier one does not remove it.
    queued_at utc_time not null default clock_timestamp(),
    due_at utc_time not null default now(),
    leased_until utc_time
);
create index account_lookup_due on account_lookup (due_at);

-- Jobs that run on one replica at a time, in the database's time.
create table job (
    name text primary key,
    leased_until utc_time,
    finished_at utc_time
);

-- When Nango last sent a webhook of each operation, to the minute: what never arrives is switched off at Nango.
create table nango_webhook (
    operation text primary key check (operation in ('creation', 'refresh', 'deletion')),
    received_at utc_time not null
);

-- Keys of the product's own services. Only a digest of a key is stored.
create table service_key (
    id uuid primary key,
    prefix text not null unique,
    name text not null check (char_length(name) between 1 and 100),
    scopes text[] not null,
    digest bytea not null,
    created_at utc_time not null default now(),
    expires_at utc_time,
    revoked_at utc_time
);
create index service_key_name on service_key (name);

-- The product's webhook endpoints. The secrets sign messages; they are stored encrypted if the operator set a key.
create table webhook_endpoint (
    id text primary key,
    url text not null check (char_length(url) between 1 and 2000 and url ~ '^https?://[^/?#]'),
    -- The message types to send; empty for all.
    events text[] not null default '{}',
    -- Whether messages carry the connection's config.
    with_config boolean not null default false,
    secret text not null,
    -- Signs beside the current secret until it expires.
    old_secret text,
    old_secret_until utc_time,
    -- Since when no message has been accepted.
    failing_since utc_time,
    off_since utc_time,
    off_reason text,
    created_at utc_time not null,
    constraint webhook_endpoint_old_secret check ((old_secret is null) = (old_secret_until is null)),
    constraint webhook_endpoint_off check ((off_since is null) = (off_reason is null))
);

-- One message for one endpoint: to be delivered, or how its delivery ended.
create table webhook_delivery (
    user_id text not null,
    id bigint generated always as identity,
    endpoint_id text not null references webhook_endpoint (id) on delete cascade,
    connection_id uuid not null,
    event_id uuid not null,
    attempts integer not null default 0,
    last_status smallint,
    last_error text,
    last_attempt_at utc_time,
    created_at utc_time not null,
    outcome text check (outcome in ('delivered', 'given_up')),
    ended_at utc_time,
    primary key (user_id, id),
    foreign key (user_id, event_id) references connection_event (user_id, id) on delete cascade,
    constraint webhook_delivery_end check ((outcome is null) = (ended_at is null))
);
-- Waiting messages, in order: the first of each connection is the next to be sent.
create index webhook_delivery_waiting on webhook_delivery (user_id, connection_id, endpoint_id, id) where ended_at is null;
create index webhook_delivery_age on webhook_delivery (created_at);
-- An operator's view of an endpoint, and its removal.
create index webhook_delivery_endpoint on webhook_delivery (endpoint_id, created_at);
create index webhook_delivery_failed on webhook_delivery (endpoint_id, created_at)
    where last_error is not null and outcome is distinct from 'delivered';
create index webhook_delivery_event on webhook_delivery (user_id, event_id);

-- Queue of connections with messages waiting for an endpoint. The replica that leases an entry sends.
create table webhook_queue (
    user_id text not null,
    connection_id uuid not null,
    endpoint_id text not null references webhook_endpoint (id) on delete cascade,
    next_attempt_at utc_time not null,
    leased_until utc_time,
    primary key (user_id, connection_id, endpoint_id)
);
create index webhook_queue_due on webhook_queue (endpoint_id, next_attempt_at);
create index webhook_queue_leased on webhook_queue (endpoint_id, leased_until) where leased_until is not null;
