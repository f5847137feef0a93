-- A user can cancel an attempt.
alter table connect_attempt
    drop constraint connect_attempt_outcome_check,
    add constraint connect_attempt_outcome_check
        check (outcome in ('succeeded', 'failed', 'expired', 'superseded', 'canceled'));

-- Who caused an event, what the account was called then, and how a label changed.
alter table connection_event add column context jsonb not null default '{}';
