-- What is wrong with a config. PostgreSQL reads more as JSON than as jsonb.
create function pg_temp.patchbay_config_problem(config text) returns text language plpgsql immutable as $$
declare
    instance_id text;
begin
    if jsonb_typeof(config::jsonb) not in ('object', 'null') then
        return 'has to be a JSON object';
    end if;
    instance_id := config::jsonb ->> 'instance_id';
    -- Characters above U+FFFF count twice, as in a request.
    if char_length(instance_id) + char_length(regexp_replace(instance_id, '[\u0001-\uFFFF]', '', 'g')) > 255 then
        return 'has an instance_id of more than 255 characters';
    end if;
    if config ~ '[eE]\+?[0-9]{3}|[0-9]{250}' then
        return 'has a number that is too large';
    end if;
    if char_length(regexp_replace(config, '[^\[{]', '', 'g')) > 100 then
        return 'has more than 100 arrays and objects';
    end if;
    return null;
exception when others then
    return 'cannot be read: ' || sqlerrm;
end
$$;

-- What is wrong with a time: our table refuses it.
create function pg_temp.patchbay_time_problem(at timestamptz) returns text language sql immutable as $$
    select case when at < '1970-01-02' or at > '9999-12-30' then 'has to be between the years 1970 and 9999' end
$$;
