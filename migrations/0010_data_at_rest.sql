-- When an answer to an Idempotency-Key is of no more use: its session is over. Null where it holds no session.
alter table idempotency_key add column expires_at timestamptz;
create index idempotency_key_expiry on idempotency_key (expires_at) where expires_at is not null;

-- Messages carry a connection's config only for endpoints that ask for it. It is stored beside the message where one does.
alter table webhook_endpoint add column with_config boolean not null default false;
alter table connection_event add column webhook_config jsonb;

-- Attempts of erased users, for as long as they may be granted: what they bring about at Nango is deleted.
create table erased_attempt (
    id uuid primary key,
    expires_at timestamptz not null
);
create index erased_attempt_expiry on erased_attempt (expires_at);
