//! Costs that do not grow with the number of rows, requests and endpoints: statements, plans and waits.

mod plans;
mod statements;
mod sweep;
mod waits;
mod webhooks;

use sqlx::PgConnection;

use crate::isolation::query_parity::Statements;

/// Copies a user's only connection, with an event and its message, for this many other users. The copies are connected.
pub(crate) async fn copy_connection(sql: &mut PgConnection, user: &str, copies: i32, events: i32) {
    sqlx::query(
        "with new as ( \
           insert into user_connector_connection (user_id, id, connector_id, nango_connection_id, nango_created_at, \
             integration_key, status, connected_at, version, created_at, updated_at) \
           select 'copy ' || n, gen_random_uuid(), c.connector_id, 'copy ' || n, \
             c.nango_created_at - make_interval(secs => n), c.integration_key, 'connected', c.connected_at, $3, \
             c.created_at, c.updated_at \
           from user_connector_connection c, generate_series(1, $2) n where c.user_id = $1 \
           returning user_id, id) \
         insert into connection_event (user_id, id, connection_id, version, kind, status, webhook, created_at) \
         select new.user_id, gen_random_uuid(), new.id, version, 'connected', 'connected', \
           jsonb_set(e.webhook::jsonb, '{data,id}', to_jsonb(new.id::text))::json, e.created_at \
         from new, generate_series(1, $3) version, \
           (select webhook, created_at from connection_event where user_id = $1 order by version desc limit 1) e",
    )
    .bind(user)
    .bind(copies)
    .bind(events)
    .execute(sql)
    .await
    .unwrap();
}

/// Returns the statements since the last call, without those of background jobs.
pub(crate) fn take_statements(statements: &Statements) -> Vec<String> {
    const OF_JOBS: [&str; 14] = [
        "transaction_read_only",
        "pg_control_system",
        "'installation'::regclass",
        "due (user_id, id)",
        "clock_timestamp()",
        "webhook_queue",
        "webhook_endpoint set old_secret",
        "from webhook_endpoint where id >",
        "upstream_deletion set leased_until",
        "from attempt_owner where due_at",
        "update job",
        "insert into job",
        "idempotency_key where",
        "from installation",
    ];
    let mut all = std::mem::take(&mut *statements.lock().unwrap());
    all.retain(|text| {
        let is_boundary =
            text.starts_with("begin") || matches!(text.as_str(), "commit" | "COMMIT" | "ROLLBACK");
        !is_boundary && !OF_JOBS.iter().any(|job| text.contains(job))
    });
    all
}
