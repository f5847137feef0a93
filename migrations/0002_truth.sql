-- Whose account a connection is, as far as its provider tells, and since when
-- its credentials have been failing.
alter table user_connector_connection
    add column account_id text,
    add column account_name text,
    add column found_account_id text,
    add column found_account_name text,
    add column failing_since timestamptz,
    add constraint user_connector_connection_account check (account_id is not null or account_name is null),
    add constraint user_connector_connection_found check (
        (status_reason is not distinct from 'account_mismatch') = (found_account_id is not null)
    );

-- Tells this installation's connections at Nango from another's in the same environment.
create table installation (
    only_row boolean primary key default true check (only_row),
    id uuid not null default gen_random_uuid()
);
insert into installation default values;

-- Jobs that one replica at a time does, in the database's time.
create table job (
    name text primary key,
    leased_until timestamptz,
    finished_at timestamptz
);

-- Answers to requests that carry an Idempotency-Key. Without an answer: under way.
create table idempotency_key (
    user_id text not null,
    key text not null check (char_length(key) between 1 and 255),
    fingerprint bytea not null,
    answer jsonb,
    created_at timestamptz not null default now(),
    primary key (user_id, key)
);
create index idempotency_key_age on idempotency_key (created_at);
