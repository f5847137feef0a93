//! The fake Nango, and its direct measurements.

use std::error::Error;
use std::time::{Duration, Instant};

use nango_sandbox::{Config, Integration, Sandbox};
use reqwest::Client;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::data;

/// A Nango with the database's connections of some users.
pub(crate) struct Nango {
    pub(crate) sandbox: Sandbox,
    pub(crate) secret_key: String,
    pub(crate) signing_key: String,
    client: Client,
}

impl Nango {
    /// Starts Nango without a rate limit.
    ///
    /// # Errors
    /// If no port is available.
    pub(crate) async fn start() -> Result<Self, Box<dyn Error>> {
        Self::with_limit(u32::MAX).await
    }

    /// Starts it with a limit of so many calls a minute.
    ///
    /// # Errors
    /// When no port can be had.
    pub(crate) async fn with_limit(rate_limit: u32) -> Result<Self, Box<dyn Error>> {
        let secret_key = Uuid::new_v4().to_string();
        let signing_key = Uuid::new_v4().to_string();
        let integrations = data::CONNECTORS.map(|slug| Integration {
            unique_key: slug.to_owned(),
            provider: slug.to_owned(),
            display_name: slug.to_owned(),
            auth_mode: "OAUTH2".to_owned(),
        });
        let sandbox = Sandbox::start(Config {
            secret_key: secret_key.clone(),
            webhook_signing_key: signing_key.clone(),
            integrations: integrations.to_vec(),
            rate_limit,
            ..Config::default()
        })
        .await?;
        let client = Client::builder().timeout(Duration::from_secs(10)).build()?;
        Ok(Self {
            sandbox,
            secret_key,
            signing_key,
            client,
        })
    }

    pub(crate) fn url(&self) -> &str {
        self.sandbox.url()
    }

    /// Imports a connection.
    ///
    /// # Errors
    /// If Nango rejects it.
    pub(crate) async fn import(
        &self,
        integration: &str,
        id: &str,
        tags: &Value,
    ) -> Result<(), Box<dyn Error>> {
        let body = json!({
            "provider_config_key": integration,
            "connection_id": id,
            "credentials": {
                "type": "OAUTH2", "access_token": format!("access-{}-{}", id, Uuid::new_v4()),
                "refresh_token": "refresh", "expires_at": "2099-01-01T00:00:00Z",
            },
            "tags": tags,
        });
        let request = self.client.post(format!("{}/connections", self.url()));
        let answer = request
            .bearer_auth(&self.secret_key)
            .json(&body)
            .send()
            .await?;
        if !answer.status().is_success() {
            return Err(format!("Nango refused an import: {}", answer.text().await?).into());
        }
        Ok(())
    }

    /// Sets the latency of its responses, in milliseconds.
    ///
    /// # Errors
    /// If Nango rejects it.
    pub(crate) async fn answers_after(&self, millis: u64) -> Result<(), Box<dyn Error>> {
        let url = format!("http://{}/sandbox/faults", self.sandbox.address());
        let faults = self.client.put(url).json(&json!({ "latency_ms": millis }));
        faults.send().await?.error_for_status()?;
        Ok(())
    }

    /// Measures the time to read a connection.
    ///
    /// # Errors
    /// If the request fails.
    pub(crate) async fn time_to_confirm(
        &self,
        integration: &str,
        id: &str,
    ) -> Result<Duration, Box<dyn Error>> {
        let path = format!("/connections/{id}?provider_config_key={integration}");
        let request = self.client.get(format!("{}{path}", self.url()));
        timed(request.bearer_auth(&self.secret_key)).await
    }

    /// Measures the time to create a connect session.
    ///
    /// # Errors
    /// If the request fails.
    pub(crate) async fn time_to_make_session(
        &self,
        user: &str,
    ) -> Result<Duration, Box<dyn Error>> {
        let body = json!({
            "allowed_integrations": [data::CONNECTORS[0]],
            "tags": { "end_user_id": user, "patchbay_connection": Uuid::new_v4(), "patchbay_attempt": Uuid::new_v4() },
        });
        let request = self.client.post(format!("{}/connect/sessions", self.url()));
        timed(request.bearer_auth(&self.secret_key).json(&body)).await
    }
}

/// Measures a request, until its response has been read.
///
/// # Errors
/// If the response is an error.
pub(crate) async fn timed(request: reqwest::RequestBuilder) -> Result<Duration, Box<dyn Error>> {
    let since = Instant::now();
    let answer = request.send().await?.error_for_status()?;
    answer.bytes().await?;
    Ok(since.elapsed())
}
