-- When Nango last sent a webhook of each operation, to the minute: what never arrives is switched off at Nango.
create table nango_webhook (
    operation text primary key check (operation in ('creation', 'refresh', 'deletion')),
    received_at timestamptz not null
);
