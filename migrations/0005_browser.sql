-- The browser that began an attempt, by a digest of its cookie, and when it came back from the provider.
alter table connect_attempt
    add column browser bytea,
    add column returned_at timestamptz;
create index connect_attempt_browser on connect_attempt (browser) where browser is not null;
