-- Which of a connection's attempts is the newest goes by the order in which they are written, as the lock on
-- their connection makes it: replicas' clocks differ, so of two begun a moment apart the earlier could seem newer.
create or replace function show_newest_attempt() returns trigger language plpgsql as $$
begin
    update user_connector_connection
    set attempt_id = new.id, attempt_kind = new.kind, attempt_expires_at = new.expires_at,
        attempt_outcome = new.outcome, attempt_error_code = new.error_code,
        attempt_error_message = new.error_message, attempt_void = new.void,
        attempt_returned = case when new.browser is not null then new.returned_at is not null end,
        attempt_created_at = new.created_at, attempt_ended_at = new.ended_at
    where id = new.connection_id and (tg_op = 'INSERT' or attempt_id = new.id);
    return null;
end
$$;

-- A few connections that work of one connector, by which a provider's outage is told from a grant that is
-- dead: without it all of the connector's are read and sorted, each time that one is in doubt.
create index user_connector_connection_siblings
    on user_connector_connection (connector_id, failing_since nulls first, nango_created_at desc)
    where status = 'connected';

-- A disconnect looks for its own deletion until it is done, however many others wait.
create index upstream_deletion_connection on upstream_deletion (connection_id);
