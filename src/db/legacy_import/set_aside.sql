create schema before_patchbay;
alter table if exists user_connector_connection set schema before_patchbay;
alter table if exists connector set schema before_patchbay;
-- What is set aside must not stand in the way of what goes on, such as a user who is deleted.
do $$
declare
    reference record;
begin
    for reference in
        select conrelid::regclass as own, conname from pg_constraint
        where contype = 'f' and connamespace = 'before_patchbay'::regnamespace
            and confrelid not in (select oid from pg_class where relnamespace = 'before_patchbay'::regnamespace)
    loop
        execute format('alter table %s drop constraint %I', reference.own, reference.conname);
    end loop;
end
$$;
