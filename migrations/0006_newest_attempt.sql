-- A connection's newest attempt, beside it: whoever reads connections reads how each was last
-- authorized, and looking that up row by row cost as much as all the rest of a list.
alter table user_connector_connection
    add column attempt_id uuid,
    add column attempt_kind text,
    add column attempt_expires_at timestamptz,
    add column attempt_outcome text,
    add column attempt_error_code text,
    add column attempt_error_message text,
    add column attempt_void boolean,
    -- Whether the browser that began it came back; null where that is not known.
    add column attempt_returned boolean,
    add column attempt_created_at timestamptz,
    add column attempt_ended_at timestamptz;

update user_connector_connection c
set attempt_id = a.id, attempt_kind = a.kind, attempt_expires_at = a.expires_at,
    attempt_outcome = a.outcome, attempt_error_code = a.error_code,
    attempt_error_message = a.error_message, attempt_void = a.void,
    attempt_returned = case when a.browser is not null then a.returned_at is not null end,
    attempt_created_at = a.created_at, attempt_ended_at = a.ended_at
from (
    select distinct on (connection_id) * from connect_attempt
    order by connection_id, created_at desc, id desc
) a
where a.connection_id = c.id;

-- Kept by the database itself: replicas of an older version, which know nothing of it, write attempts, too.
create function show_newest_attempt() returns trigger language plpgsql as $$
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
create trigger connect_attempt_newest after insert or update on connect_attempt
    for each row execute function show_newest_attempt();
