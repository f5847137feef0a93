-- Keys of the product's own services. Only a digest of a key is kept.
create table service_key (
    id uuid primary key,
    prefix text not null unique,
    name text not null check (char_length(name) between 1 and 100),
    scopes text[] not null,
    digest bytea not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    revoked_at timestamptz
);
create index service_key_name on service_key (name);

-- Which token was handed out to whom: the token itself is nowhere in it.
create table token_use (
    id bigint generated always as identity primary key,
    connection_id uuid not null references user_connector_connection (id) on delete cascade,
    user_id text not null,
    service text not null,
    purpose text not null check (purpose in ('token', 'proxy')),
    used_at timestamptz not null
);
create index token_use_connection on token_use (connection_id, id desc);
