//! A thousand endpoints for webhooks that are dead: what they cost the requests of others.

use std::error::Error;
use std::net::Ipv4Addr;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::net::TcpListener;

use crate::load::{Request, wrk};
use crate::measure::{Bench, CONNECTIONS, list_requests, start_service};
use crate::report::Report;

const ENDPOINTS: u32 = 1_000;
/// How many connections have a message for every endpoint.
const MESSAGES: u32 = 20;

impl Bench {
    pub(crate) async fn dead_endpoints(&self, report: &mut Report) -> Result<(), Box<dyn Error>> {
        // Half of them accept a connection and never answer; nothing listens at the others.
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = silent.local_addr()?.port();
        let accepting = tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((socket, _)) = silent.accept().await {
                open.push(socket);
            }
        });
        let requests = list_requests(crate::USERS)?;
        let without = self
            .with_endpoints("no endpoint: list", &requests, report)
            .await?;
        let mut sql = PgConnection::connect(&self.database).await?;
        sqlx::raw_sql(AssertSqlSafe(queue(port)))
            .execute(&mut sql)
            .await?;
        let with = self
            .with_endpoints("1,000 dead endpoints: list", &requests, report)
            .await;
        sqlx::raw_sql(REMOVE).execute(&mut sql).await?;
        let left: i64 = sqlx::query_scalar("select count(*) from webhook_endpoint")
            .fetch_one(&mut sql)
            .await?;
        sql.close().await?;
        accepting.abort();
        let (with, without) = (with?, without);
        assert_eq!(left, 0, "all endpoints have been removed");
        let ratio = with.0.as_secs_f64() / without.0.as_secs_f64();
        report.at_most(
            "list's p99 with 1,000 dead endpoints, of that without",
            ratio,
            1.5,
        );
        report.at_most("memory with 1,000 dead endpoints, MiB", with.1, 80.0);
        Ok(())
    }

    /// Lists by a service of its own. Returns their p99, and the memory that it had at the most.
    async fn with_endpoints(
        &self,
        what: &str,
        requests: &[Request],
        report: &mut Report,
    ) -> Result<(Duration, f64), Box<dyn Error>> {
        let (program, folder) = (&self.program, &self.folder);
        let service = start_service(program, folder, &self.database, &self.nango, "60").await?;
        // The queue's first messages are sent meanwhile.
        wrk(folder, &service.url, requests, CONNECTIONS, 2)?;
        let load = self.http_of(&service, what, requests, report)?;
        Ok((load.p99, service.memory()?.1))
    }
}

const REMOVE: &str = "
    delete from webhook_queue;
    delete from webhook_delivery;
    delete from webhook_endpoint where id like 'dead-%';
    delete from connection_event where version > 1000000";

/// Adds the endpoints, and a message for each of them to the first connections.
fn queue(port: u16) -> String {
    format!(
        "begin;
         insert into webhook_endpoint (id, url, secret, created_at)
           select 'dead-' || n, 'http://127.0.0.1:' || case when n % 2 = 0 then {port} else 9 end || '/' || n,
             'whsec_' || encode(sha256(n::text::bytea), 'base64'), now() from generate_series(1, {ENDPOINTS}) n;
         create temp table message on commit drop as
           select user_id, id as connection_id, gen_random_uuid() as event_id, version from user_connector_connection
           where user_id like 'user-%' order by user_id, id limit {MESSAGES};
         insert into connection_event (user_id, id, connection_id, version, kind, status, webhook, created_at)
           select user_id, event_id, connection_id, version + 1000000, 'connected', 'connected',
             json_build_object('type', 'connection.connected', 'data', json_build_object('id', connection_id)), now() from message;
         insert into webhook_delivery (user_id, endpoint_id, connection_id, event_id, created_at)
           select user_id, endpoint.id, connection_id, event_id, now() from message, webhook_endpoint endpoint;
         insert into webhook_queue (user_id, connection_id, endpoint_id, next_attempt_at)
           select user_id, connection_id, endpoint.id, now() from message, webhook_endpoint endpoint;
         commit;"
    )
}
