//! Nango's webhooks: the first of each of several attempts, which connects.

use std::error::Error;
use std::time::Duration;

use aws_lc_rs::hmac;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::data::{self, CONNECTORS};
use crate::measure::{API, Bench, CONNECTING, ONE_BY_ONE, added, one_by_one};
use crate::nango::timed;
use crate::report::Report;

/// A webhook that is ready to be sent.
#[derive(Clone)]
pub(crate) struct Webhook {
    url: String,
    signature: String,
    body: String,
    /// Nango's id of the connection, and the integration.
    pub(crate) id: String,
    pub(crate) integration: &'static str,
    /// Patchbay's id of the connection.
    pub(crate) connection: Uuid,
}

impl Webhook {
    /// The request that delivers it.
    pub(crate) fn request(&self, client: &reqwest::Client) -> reqwest::RequestBuilder {
        client
            .post(&self.url)
            .header("x-nango-hmac-sha256", &self.signature)
            .body(self.body.clone())
    }

    /// Delivers it as Nango does: three times at the most. Returns whether it was accepted.
    pub(crate) async fn deliver(&self, client: &reqwest::Client) -> bool {
        for wait in [0, 3, 6] {
            tokio::time::sleep(Duration::from_secs(wait)).await;
            let answer = self.request(client).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return true;
            }
        }
        false
    }
}

impl Bench {
    pub(crate) async fn webhooks(&self, report: &mut Report) -> Result<(), Box<dyn Error>> {
        let installation = self.installation().await?;
        let (mut ours, mut nangos) = (Vec::new(), Vec::new());
        for user in CONNECTING + 1..=CONNECTING + ONE_BY_ONE {
            let webhook = self.granted(user, installation).await?;
            let (integration, id) = (webhook.integration, &webhook.id);
            nangos.push(self.nango.time_to_confirm(integration, id).await?);
            ours.push(timed(webhook.request(&self.client)).await?);
        }
        let (ours, nangos) = (one_by_one(ours), one_by_one(nangos));
        report.add("Nango: a connection, one by one", nangos, None);
        report.add("webhook that connects, one by one", ours, None);
        report.at_most(
            "webhook, beyond Nango's confirmation, p50 ms",
            added(ours.p50, nangos.p50),
            3.0,
        );
        Ok(())
    }

    /// The id that the service has given its database.
    pub(crate) async fn installation(&self) -> Result<Uuid, Box<dyn Error>> {
        let mut sql = PgConnection::connect(&self.database).await?;
        let id = sqlx::query_scalar("select id from installation")
            .fetch_one(&mut sql)
            .await?;
        sql.close().await?;
        Ok(id)
    }

    /// Starts an attempt of a user, and lets Nango have its grant. Returns the webhook that reports it.
    pub(crate) async fn granted(
        &self,
        user: u32,
        installation: Uuid,
    ) -> Result<Webhook, Box<dyn Error>> {
        let integration = CONNECTORS[2];
        let user = format!("user-{user}");
        let instance = Uuid::new_v4();
        let service = &self.service.url;
        let url = format!("{service}{API}/{integration}/connect?instance_id={instance}");
        let request = self.client.post(url).bearer_auth(data::token(&user)?);
        let started: Value = request.send().await?.error_for_status()?.json().await?;
        let attempt = started["attempt_id"].as_str().ok_or("no attempt")?;
        let connection = started["connection_id"].as_str().ok_or("no connection")?;
        let id = format!("granted-{attempt}");
        let tags = json!({
            "end_user_id": user, "patchbay_installation": installation,
            "patchbay_connection": connection, "patchbay_attempt": attempt,
        });
        self.nango.import(integration, &id, &tags).await?;
        let body = json!({
            "from": "nango", "type": "auth", "operation": "creation", "success": true, "environment": "dev",
            "authMode": "OAUTH2", "connectionId": id, "providerConfigKey": integration, "provider": integration, "tags": tags,
        })
        .to_string();
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.nango.signing_key.as_bytes());
        Ok(Webhook {
            url: format!("{service}/api/v1/webhooks/nango/{attempt}"),
            signature: hex::encode(hmac::sign(&key, body.as_bytes())),
            connection: connection.parse()?,
            body,
            id,
            integration,
        })
    }
}
