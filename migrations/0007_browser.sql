-- The browser that began an attempt, by a digest of its cookie, and when it came back from the provider.
alter table connect_attempt
    add column browser bytea,
    add column returned_at timestamptz;
create index connect_attempt_browser on connect_attempt (browser) where browser is not null;

-- Beside the connection, as all of its newest attempt: null where no browser is known.
alter table user_connector_connection
    add column attempt_returned boolean;

create or replace function show_newest_attempt() returns trigger language plpgsql as $$
begin
    update user_connector_connection
    set attempt_id = new.id, attempt_kind = new.kind, attempt_expires_at = new.expires_at,
        attempt_outcome = new.outcome, attempt_error_code = new.error_code,
        attempt_error_message = new.error_message, attempt_void = new.void,
        attempt_returned = case when new.browser is not null then new.returned_at is not null end,
        attempt_created_at = new.created_at, attempt_ended_at = new.ended_at
    where id = new.connection_id
      and (attempt_id is null or (attempt_created_at, attempt_id) <= (new.created_at, new.id));
    return null;
end
$$;
