-- $1 and $2: the slugs and ids of the catalog's connectors. $3: the milliseconds between two deletions at Nango.
-- $4: the rows that are left out.
with old as (
    select
        o.id,
        o.user_id::text as user_id,
        c.id as connector_id,
        c.integration_key,
        c.provider,
        coalesce(
            nullif(o.config::jsonb ->> 'instance_id', ''),
            -- Its ids at Nango look like {user}_{connector}_{instance}.
            nullif(nullif(case
                when starts_with(o.nango_connection_id, o.user_id::text || '_' || c.slug || '_')
                    then substr(o.nango_connection_id, length(o.user_id::text || '_' || c.slug || '_') + 1)
                when starts_with(o.nango_connection_id, o.user_id::text || '_' || k.id::text || '_')
                    then substr(o.nango_connection_id, length(o.user_id::text || '_' || k.id::text || '_') + 1)
            end, ''), 'default'),
            ''
        ) as instance_id,
        nullif(o.nango_connection_id::text, '') as nango_id,
        lower(o.status::text) as status,
        o.connected_at::timestamptz as connected_at,
        o.disconnected_at::timestamptz as disconnected_at,
        o.last_synced_at::timestamptz as last_synced_at,
        case jsonb_typeof(o.config::jsonb) when 'object' then o.config::jsonb else '{}' end as config,
        -- Without characters that change the direction of the text around them.
        nullif(translate(o.last_error::text,
            U&'\061C\200E\200F\202A\202B\202C\202D\202E\2066\2067\2068\2069', ''), '') as last_error,
        greatest(coalesce(o.error_count, 0), 0)::integer as error_count,
        coalesce(o.created_at::timestamptz, o.updated_at::timestamptz, now()) as created_at,
        coalesce(o.updated_at::timestamptz, o.created_at::timestamptz, now()) as updated_at
    from before_patchbay.user_connector_connection o
    join before_patchbay.connector k on k.id = o.connector_id
    join unnest($1::text[], $2::uuid[]) s (slug, id) on s.slug = k.slug
    join connector c on c.id = s.id
    where not o.id = any($4)
),
judged as (
    select
        *,
        case
            when status = 'connected' and nango_id is not null then 'connected'
            when status = 'disconnected' then 'disconnected'
            else 'error'
        end as new_status,
        row_number() over (
            partition by user_id, connector_id, instance_id
            order by status = 'connected' desc, updated_at desc, id
        ) as rank
    from old
),
taken as (
    insert into user_connector_connection (
        id, user_id, connector_id, instance_id, nango_connection_id, nango_created_at, integration_key, provider,
        status, status_reason,
        connected_at, disconnected_at, last_synced_at, config, last_error, error_count, version, created_at, updated_at
    )
    select
        id,
        user_id,
        connector_id,
        -- The table before had no key for it: of several rows of one instance the others are told apart by their ids.
        case
            when rank = 1 then instance_id
            when instance_id = '' then id::text
            else left(instance_id, 200) || '-' || id
        end,
        case when new_status <> 'disconnected' then nango_id end,
        case when new_status <> 'disconnected' and nango_id is not null then coalesce(connected_at, created_at) end,
        -- Nango held it under the connector's integration, as far as the old table tells.
        case when new_status <> 'disconnected' and nango_id is not null then integration_key end,
        case when new_status <> 'disconnected' and nango_id is not null then provider end,
        new_status,
        case
            when new_status = 'connected' then null
            when new_status = 'disconnected' then 'user_disconnected'
            when status = 'pending' then 'attempt_expired'
            else 'needs_reauthorization'
        end,
        case when new_status = 'connected' then coalesce(connected_at, updated_at) else connected_at end,
        case when new_status = 'disconnected' then coalesce(disconnected_at, updated_at) else disconnected_at end,
        last_synced_at,
        config,
        coalesce(last_error, case
            when new_status = 'error' and status = 'pending'
                then 'The authorization was not finished when the data was imported: connect again'
            when new_status = 'error' or error_count > 0 then 'It failed before the import, without a recorded reason'
        end),
        case when last_error is not null or new_status = 'error' then greatest(error_count, 1) else error_count end,
        1,
        created_at,
        updated_at
    from judged
    returning id, user_id, status, status_reason, last_error, created_at
),
event as (
    insert into connection_event
        (user_id, id, connection_id, version, kind, status, status_reason, detail, created_at)
    select user_id, gen_random_uuid(), id, 1, 'adopted', status, status_reason, last_error, now()
    from taken order by created_at, id
)
-- What was disconnected may still be held at Nango. It is asked slowly, so that its rate limit is left to users.
insert into upstream_deletion
    (nango_connection_id, integration_key, user_id, connection_id, reason, next_attempt_at, created_at)
select
    nango_id,
    integration_key,
    user_id,
    id,
    'disconnected',
    now() + make_interval(secs => row_number() over (order by updated_at, id) * $3 / 1000.0),
    now()
from judged
where new_status = 'disconnected' and nango_id is not null
  -- Another row may use the same connection.
  and not exists (
      select from judged other where other.nango_id = judged.nango_id and other.new_status <> 'disconnected'
  )
on conflict (nango_connection_id) do nothing
