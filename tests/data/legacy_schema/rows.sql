-- Two users, and a row of every kind. Their ids at Nango are {user}_{connector}_{instance}.
insert into "user" values
    ('a0a0a0a0-0000-4000-8000-00000000000a', 'ada@example.com', true),
    ('b0b0b0b0-0000-4000-8000-00000000000b', 'ben@example.com', true);
insert into user_connector_connection
select r.id, r.user_id, k.id, r.nango_id, r.status, r.connected_at, r.disconnected_at, r.synced_at, r.config, r.error,
    r.errors, r.created_at, r.updated_at
from (values
    -- Connected, with and without an instance.
    ('10000000-0000-4000-8000-000000000001'::uuid, 'a0a0a0a0-0000-4000-8000-00000000000a'::uuid, 'gmail',
        'a0a0a0a0-0000-4000-8000-00000000000a_gmail_default', 'connected', '2025-01-02 03:04:05.678'::timestamp, null::timestamp,
        '2025-02-03 04:05:06'::timestamp, '{"account_name": "ada@gmail.example"}'::json, null, 0,
        '2025-01-02 03:00:00'::timestamp, '2025-02-03 04:05:06'::timestamp),
    ('10000000-0000-4000-8000-000000000002', 'a0a0a0a0-0000-4000-8000-00000000000a', 'gmail',
        'a0a0a0a0-0000-4000-8000-00000000000a_gmail_work', 'connected', '2025-01-03 00:00:00', null, null, null, null, 0,
        '2025-01-03 00:00:00', '2025-01-03 00:00:00'),
    -- The same instance once more, as its table allowed.
    ('10000000-0000-4000-8000-000000000003', 'a0a0a0a0-0000-4000-8000-00000000000a', 'gmail',
        'an-id-of-nangos-own', 'error', '2025-01-03 00:00:00', null, null, '{"instance_id": "work"}', 'token refresh failed', 3,
        '2025-01-04 00:00:00', '2025-01-04 00:00:00'),
    -- By the connector's id, and in error without saying why.
    ('10000000-0000-4000-8000-000000000004', 'a0a0a0a0-0000-4000-8000-00000000000a', 'github',
        'a0a0a0a0-0000-4000-8000-00000000000a_20000000-0000-4000-8000-000000000001_main', 'error', null, null, null, null, null, 0,
        '2025-01-05 00:00:00', '2025-01-05 00:00:00'),
    -- Pending: of one Nango has a connection, of the other it has not.
    ('10000000-0000-4000-8000-000000000005', 'b0b0b0b0-0000-4000-8000-00000000000b', 'notion',
        'b0b0b0b0-0000-4000-8000-00000000000b_notion_default', 'pending', null, null, null, '{}', null, 0,
        '2025-01-06 00:00:00', '2025-01-06 00:00:00'),
    ('10000000-0000-4000-8000-000000000006', 'b0b0b0b0-0000-4000-8000-00000000000b', 'github',
        'b0b0b0b0-0000-4000-8000-00000000000b_github_default', 'pending', null, null, null, 'null', null, 0,
        '2025-01-07 00:00:00', '2025-01-07 00:00:00'),
    -- Disconnected, though Nango was never told.
    ('10000000-0000-4000-8000-000000000007', 'b0b0b0b0-0000-4000-8000-00000000000b', 'gmail',
        'b0b0b0b0-0000-4000-8000-00000000000b_gmail_default', 'disconnected', '2025-01-08 00:00:00', '2025-01-09 00:00:00', null,
        '{"workspace": "ours"}', null, 0, '2025-01-08 00:00:00', '2025-01-09 00:00:00')
) r (id, user_id, slug, nango_id, status, connected_at, disconnected_at, synced_at, config, error, errors, created_at, updated_at)
join connector k on k.slug = r.slug;
