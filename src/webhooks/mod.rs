//! Notifies the product of changes to its users' connections, by the Standard Webhooks specification.
//!
//! A message is written in the transaction of its change, and added to a queue for each endpoint and connection.
//! Therefore none is lost, each belongs to a committed change, and those of one connection arrive in order. Only the
//! replica that claims a queue sends its first message. A connection whose message fails does not block others.

mod delivery;
mod signing;

pub use delivery::PostError;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Client;
use reqwest::dns::Resolve;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tokio::sync::Semaphore;
use url::Url;
use uuid::Uuid;

pub use self::delivery::DeliveryGuard;
use crate::clock::Clock;
use crate::db::Database;
pub use crate::db::webhook_endpoints::Endpoint;
use crate::db::webhook_endpoints::{Queues, StoredSecrets};
use crate::db::webhook_history::Replay;
pub use crate::db::webhook_history::{Delivery, DeliveryFilter};
use crate::db::{webhook_endpoints, webhook_history};
use crate::domain::{ConnectionId, MessageType};
use crate::encryption::{self, Encryption, is_encrypted};
use crate::net::address_guard::{AddressGuard, ForbiddenAddress, Networks, SystemResolver};
use crate::net::http_client;

/// The timeout of an endpoint.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The number of events that a replay reads in one transaction, and of queues that one transaction changes.
const REPLAY_BATCH: i64 = 1000;
const QUEUE_BATCH: u32 = 1000;

/// The retention of ended deliveries, and of messages that wait for a disabled endpoint.
const DELIVERY_RETENTION: TimeDelta = TimeDelta::days(30);

/// The number of old deliveries that one transaction deletes.
const PRUNE_BATCH: u32 = 1000;

/// The number of endpoints whose secrets one batch reads for re-encryption.
const REENCRYPTED: i64 = 100;

/// The endpoints whose secrets the first key has not encrypted, by how the secrets are stored.
#[derive(Debug, Default)]
pub struct SecretsAtRest {
    /// The number of endpoints with unencrypted secrets.
    pub plain: usize,
    /// The number of endpoints with secrets that the second key encrypted.
    pub of_another_key: usize,
    /// The ids of endpoints whose secrets cannot be decrypted, and the errors.
    pub unreadable: Vec<(String, encryption::Error)>,
}

/// The reason for which an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No endpoint has this id.
    #[error("there is no endpoint {0:?}: `patchbay webhooks list` shows all")]
    NotFound(String),
    /// The address of an endpoint is not permitted.
    #[error(
        "nothing can be sent to this address: {0} (WEBHOOK_ALLOWED_NETWORKS allows private networks, and there http)"
    )]
    Address(#[from] ForbiddenAddress),
    /// A secret cannot be encrypted or decrypted.
    #[error(transparent)]
    Encryption(#[from] encryption::Error),
    /// The system has no randomness for a secret.
    #[error("the system gives no random bytes for a secret")]
    Random(#[from] aws_lc_rs::error::Unspecified),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

type Result<T, E = Error> = std::result::Result<T, E>;

/// The endpoints, and the HTTP clients that call them.
#[derive(Debug)]
pub struct Webhooks {
    database: Database,
    clock: Clock,
    encryption: Encryption,
    secure: GuardedClient,
    plain: GuardedClient,
    /// The permits for recording outcomes: half of the pool's connections.
    writers: Semaphore,
}

/// An HTTP client, and the guard that restricts its addresses.
#[derive(Debug)]
struct GuardedClient {
    guard: AddressGuard,
    client: Client,
}

impl GuardedClient {
    fn new(networks: &Networks, resolver: &Arc<dyn Resolve>, plain: bool) -> reqwest::Result<Self> {
        let guard = AddressGuard::new(networks.clone(), resolver.clone(), plain);
        Ok(Self {
            client: http_client::guarded_client(TIMEOUT, guard.clone())?,
            guard,
        })
    }
}

impl Webhooks {
    /// Manages the endpoints of this database. They may be at public addresses and in these networks.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(
        database: Database,
        clock: Clock,
        networks: &Networks,
        encryption: Encryption,
    ) -> reqwest::Result<Self> {
        let resolver: Arc<dyn Resolve> = Arc::new(SystemResolver);
        Self::with_resolver(database, clock, networks, encryption, &resolver)
    }

    /// Does the same, with `resolver` for the host names of endpoints.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn with_resolver(
        database: Database,
        clock: Clock,
        networks: &Networks,
        encryption: Encryption,
        resolver: &Arc<dyn Resolve>,
    ) -> reqwest::Result<Self> {
        let writers = database.max_connections().div_ceil(2);
        Ok(Self {
            writers: Semaphore::new(usize::try_from(writers).unwrap_or(1)),
            database,
            clock,
            encryption,
            secure: GuardedClient::new(networks, resolver, false)?,
            plain: GuardedClient::new(networks, resolver, true)?,
        })
    }

    fn client_for(&self, url: &Url) -> Result<&GuardedClient, ForbiddenAddress> {
        let route = match url.scheme() {
            "http" => &self.plain,
            _ => &self.secure,
        };
        route.guard.check(url)?;
        Ok(route)
    }

    /// Adds an endpoint that receives these events, or all if `events` is empty, from now on. Messages carry the
    /// connection's config if the endpoint asks for it. Its secret is not shown again.
    ///
    /// # Errors
    /// If nothing may be sent to the address.
    pub async fn add(
        &self,
        url: &Url,
        events: &[MessageType],
        with_config: bool,
    ) -> Result<(String, SecretString)> {
        self.client_for(url)?;
        let id = format!("whe_{}", &Uuid::new_v4().simple().to_string()[..12]);
        let secret = signing::new_secret()?;
        let stored = self.encrypted(&id, &secret)?;
        let now = self.clock.now();
        webhook_endpoints::insert(&self.database, &id, url, events, with_config, &stored, now)
            .await?;
        Ok((id, secret))
    }

    /// Returns an endpoint's secret in its stored form.
    fn encrypted(&self, id: &str, secret: &SecretString) -> Result<SecretString> {
        let stored = self.encryption.encrypt(&row(id), secret.expose_secret())?;
        Ok(stored.into())
    }

    /// Returns all endpoints, in the order in which they were added.
    pub async fn list(&self) -> Result<Vec<Endpoint>> {
        Ok(webhook_endpoints::list(&self.database).await?)
    }

    /// Replaces the secret of an endpoint. For `grace`, messages are signed with both secrets.
    ///
    /// # Errors
    /// If there is no such endpoint.
    pub async fn rotate(&self, id: &str, grace: TimeDelta) -> Result<SecretString> {
        let secret = signing::new_secret()?;
        let stored = self.encrypted(id, &secret)?;
        let until = self.clock.now() + grace;
        require_found(
            webhook_endpoints::rotate(&self.database, id, &stored, until).await?,
            id,
        )?;
        Ok(secret)
    }

    /// Enables an endpoint. Retries all waiting messages, in order, with all their attempts.
    ///
    /// # Errors
    /// If there is no such endpoint.
    pub async fn enable(&self, id: &str) -> Result<()> {
        // While the endpoint is still disabled, so that no message is sent and postponed meanwhile.
        let now = self.clock.now();
        for which in [Queues::Later, Queues::Earlier] {
            loop {
                let batch = QUEUE_BATCH.into();
                let changed =
                    webhook_endpoints::make_due(&self.database, id, which, now, batch).await?;
                if changed < QUEUE_BATCH.into() {
                    break;
                }
            }
        }
        let found = webhook_endpoints::enable(&self.database, id).await?;
        require_found(found, id)
    }

    /// Disables an endpoint: its messages stay queued.
    ///
    /// # Errors
    /// If there is no such endpoint.
    pub async fn disable(&self, id: &str) -> Result<()> {
        self.switch_off(id, "switched off by hand").await
    }

    async fn switch_off(&self, id: &str, reason: &str) -> Result<()> {
        let found =
            webhook_endpoints::disable(&self.database, id, reason, self.clock.now()).await?;
        require_found(found, id)
    }

    /// Removes an endpoint with its waiting messages. If interrupted, the endpoint stays disabled, and the call can be
    /// repeated.
    ///
    /// # Errors
    /// If there is no such endpoint.
    pub async fn remove(&self, id: &str) -> Result<()> {
        self.switch_off(id, "it is being removed").await?;
        // In small transactions, for any number of messages. The last one removes those that were queued or locked
        // meanwhile.
        loop {
            let mut tx = self.database.begin().await?;
            let batch = QUEUE_BATCH.into();
            let deleted = webhook_history::delete_of_endpoint(&mut tx, id, batch).await?;
            tx.commit().await?;
            if deleted < QUEUE_BATCH.into() {
                break;
            }
        }
        let mut tx = self.database.begin().await?;
        require_found(webhook_endpoints::lock_to_remove(&mut tx, id).await?, id)?;
        webhook_endpoints::remove(&mut tx, id).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Sends the messages of all changes since `since` again to an endpoint, for one connection or for all. They are
    /// unchanged, and keep their ids. Returns their number.
    ///
    /// # Errors
    /// If there is no such endpoint.
    pub async fn replay(
        &self,
        id: &str,
        since: DateTime<Utc>,
        connection: Option<ConnectionId>,
    ) -> Result<u64> {
        let mut tx = self.database.begin().await?;
        require_found(webhook_endpoints::lock(&mut tx, id).await?, id)?;
        let connection = match connection {
            None => None,
            Some(connection) => {
                let user = webhook_history::user_of_connection(&mut tx, connection).await?;
                let Some(user) = user else {
                    return Ok(0);
                };
                Some((user, connection))
            }
        };
        let mut after = webhook_history::position_before(&mut tx, since).await?;
        tx.commit().await?;
        let replay = Replay {
            endpoint: id,
            since,
            connection,
            limit: REPLAY_BATCH,
        };
        let mut replayed = 0;
        loop {
            let mut tx = self.database.begin().await?;
            require_found(webhook_endpoints::lock(&mut tx, id).await?, id)?;
            let now = self.clock.now();
            let (count, last) = webhook_history::replay(&mut tx, &replay, after, now).await?;
            tx.commit().await?;
            let Some(last) = last else {
                return Ok(replayed);
            };
            after = last;
            replayed += count as u64;
        }
    }

    /// Returns the latest deliveries, newest first.
    ///
    /// # Errors
    /// If the filter's endpoint does not exist.
    pub async fn deliveries(&self, filter: &DeliveryFilter) -> Result<Vec<Delivery>> {
        let mut tx = self.database.begin().await?;
        if let Some(id) = &filter.endpoint {
            require_found(webhook_endpoints::lock(&mut tx, id).await?, id)?;
        }
        let deliveries = webhook_history::deliveries(&mut tx, filter).await?;
        tx.commit().await?;
        Ok(deliveries)
    }

    /// Sends a message of the type `patchbay.test` now. Returns the status of the response.
    ///
    /// # Errors
    /// If there is no such endpoint. The inner error is the reason for a missing response.
    pub async fn test(&self, id: &str) -> Result<Result<u16, PostError>> {
        let target = webhook_endpoints::target(&self.database, id).await?;
        let target = target.ok_or_else(|| Error::NotFound(id.to_owned()))?;
        let message = format!("evt_test_{}", Uuid::new_v4().simple());
        let body = json!({
            "type": "patchbay.test",
            "timestamp": self.clock.now(),
            "data": { "endpoint": id },
        });
        let response = self.post(id, &target, &message, &body.to_string()).await;
        Ok(response.map(|response| response.status))
    }

    /// Encrypts with the first key all secrets that are unencrypted or encrypted by another key, and deletes secrets
    /// that no longer sign. A secret whose key is missing stays unchanged, and is logged. Returns the number of changed
    /// endpoints.
    pub async fn reencrypt(&self) -> Result<u64> {
        let mut changed =
            webhook_endpoints::delete_old_secrets(&self.database, self.clock.now()).await?;
        let Some(prefix) = self.encryption.current_prefix() else {
            return Ok(changed);
        };
        let mut after = String::new();
        loop {
            let batch =
                webhook_endpoints::secrets_without(&self.database, &prefix, &after, REENCRYPTED)
                    .await?;
            let Some(last) = batch.last() else {
                return Ok(changed);
            };
            after.clone_from(&last.id);
            for stored in &batch {
                match self.reencrypted(stored) {
                    Ok(new) => {
                        changed += webhook_endpoints::replace_secrets(&self.database, stored, &new)
                            .await?;
                    }
                    Err(error) => {
                        tracing::error!(endpoint = stored.id, %error, "a webhook endpoint's secret cannot be read");
                    }
                }
            }
        }
    }

    fn reencrypted(&self, stored: &StoredSecrets) -> Result<StoredSecrets, encryption::Error> {
        let row = row(&stored.id);
        let again = |secret: &str| {
            let secret = self.encryption.decrypt(&row, secret)?;
            self.encryption.encrypt(&row, secret.expose_secret())
        };
        Ok(StoredSecrets {
            id: stored.id.clone(),
            secret: again(&stored.secret)?,
            old_secret: stored.old_secret.as_deref().map(again).transpose()?,
        })
    }

    /// Returns how the endpoints' secrets are stored.
    pub async fn secrets_at_rest(&self) -> Result<SecretsAtRest> {
        let mut found = SecretsAtRest::default();
        let prefix = self.encryption.current_prefix().unwrap_or_default();
        let mut after = String::new();
        loop {
            let batch =
                webhook_endpoints::secrets_without(&self.database, &prefix, &after, REENCRYPTED)
                    .await?;
            let Some(last) = batch.last() else {
                return Ok(found);
            };
            after.clone_from(&last.id);
            for stored in batch {
                let secrets = [Some(&stored.secret), stored.old_secret.as_ref()];
                let mut secrets = secrets.into_iter().flatten();
                if let Err(error) = self.reencrypted(&stored) {
                    found.unreadable.push((stored.id, error));
                } else if secrets.any(|secret| !is_encrypted(secret)) {
                    found.plain += 1;
                } else {
                    found.of_another_key += 1;
                }
            }
        }
    }

    /// Deletes deliveries that exceed the retention, in batches. Returns their number.
    pub async fn prune_deliveries(&self) -> Result<u64> {
        let before = self.clock.now() - DELIVERY_RETENTION;
        let mut all = 0;
        loop {
            let deleted =
                webhook_history::delete_old_deliveries(&self.database, before, PRUNE_BATCH.into())
                    .await?;
            all += deleted;
            if deleted < PRUNE_BATCH.into() {
                return Ok(all);
            }
        }
    }
}

/// Returns the name of an endpoint's row, to which its secrets are bound.
fn row(id: &str) -> String {
    format!("webhook_endpoint {id}")
}

fn require_found(found: bool, id: &str) -> Result<()> {
    if found {
        Ok(())
    } else {
        Err(Error::NotFound(id.to_owned()))
    }
}
