-- Uses that are the same and come at the same moment are one row: a workflow that asks a hundred
-- times a second is told of as that, and does not write a hundred rows.
alter table token_use add column times integer not null default 1 check (times > 0);
