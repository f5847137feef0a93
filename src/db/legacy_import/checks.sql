-- What is wrong with a config. PostgreSQL reads more as JSON than as jsonb.
create function pg_temp.patchbay_config_problem(config text) returns text language plpgsql immutable as $$
begin
    if jsonb_typeof(config::jsonb) not in ('object', 'null') then
        return 'has to be a JSON object';
    end if;
    if char_length(config::jsonb ->> 'instance_id') > 255 then
        return 'has an instance_id of more than 255 characters';
    end if;
    if config ~ '[eE]\+?[0-9]{3}|[0-9]{300}' then
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

-- What is wrong with a time: it has to have a year of four digits.
create function pg_temp.patchbay_time_problem(time text) returns text language sql immutable as $$
    select case when time !~ '^[0-9]{4}-' or time ~ 'BC$' then 'has to be between the years 1 and 9999' end
$$;
