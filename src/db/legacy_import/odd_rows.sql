-- The values that have no place in our table, a row each. $1: the slugs of the catalog's connectors. $2: how many at the most.
select
    o.id,
    p.name::text,
    left(p.value, 100),
    p.problem
from user_connector_connection o
left join connector k on k.id = o.connector_id
cross join lateral (
    values
    ('connector_id', coalesce(k.slug::text, o.connector_id::text), case
        when k.slug is null then 'names no row of the table connector'
        when not k.slug::text ~ '^[a-z0-9][a-z0-9-]{0,62}$'
            then 'is not a slug, which has only a-z, 0-9 and -: change it in the table connector to the catalog''s'
        when not k.slug::text = any($1)
            then 'is a connector that the catalog does not have: add it to the file that CATALOG_FILE names'
    end),
    ('nango_connection_id', o.nango_connection_id::text, case
        when char_length(o.nango_connection_id) > 255 then 'has more than 255 characters'
        when lower(o.status::text) <> 'disconnected' and o.nango_connection_id <> '' and exists (
            select from user_connector_connection other
            where other.nango_connection_id = o.nango_connection_id and other.id < o.id
                and lower(other.status::text) <> 'disconnected'
        ) then 'is also that of another row that is not disconnected: keep it in one of them'
    end),
    ('status', o.status::text, case
        when o.status is null or lower(o.status::text) not in ('pending', 'connected', 'disconnected', 'error')
            then 'has to be pending, connected, disconnected or error'
    end),
    ('config', o.config::text, pg_temp.patchbay_config_problem(o.config::text)),
    ('error_count', o.error_count::text, case when o.error_count > 2147483647 then 'has to be at most 2147483647' end),
    ('connected_at', o.connected_at::text, pg_temp.patchbay_time_problem(o.connected_at::timestamptz)),
    ('disconnected_at', o.disconnected_at::text, pg_temp.patchbay_time_problem(o.disconnected_at::timestamptz)),
    ('last_synced_at', o.last_synced_at::text, pg_temp.patchbay_time_problem(o.last_synced_at::timestamptz)),
    ('created_at', o.created_at::text, pg_temp.patchbay_time_problem(o.created_at::timestamptz)),
    ('updated_at', o.updated_at::text, pg_temp.patchbay_time_problem(o.updated_at::timestamptz))
) as p (name, value, problem)
where p.problem is not null
order by o.id, p.name
limit $2
