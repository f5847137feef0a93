//! Database settings.

use std::time::Duration;

use secrecy::SecretString;

use super::database_url::DatabaseUrl;
use crate::encryption::Encryption;
use crate::environment::Environment;

/// An example of a `DATABASE_URL`.
const DATABASE_URL_EXAMPLE: &str = "postgres://user:password@host:5432/database";

/// The settings of the database.
#[derive(Clone, Debug)]
pub struct DatabaseConfig {
    /// `DATABASE_URL`.
    pub url: SecretString,
    /// `DATABASE_POOL_SIZE`: the maximum number of connections of a replica.
    pub pool_size: u32,
    /// `DATABASE_STARTUP_TIMEOUT_SECONDS`: how long a starting replica waits for the database.
    pub startup_timeout: Duration,
}

impl Environment<'_> {
    pub(crate) fn database(&mut self) -> Option<DatabaseConfig> {
        let url = self.required("DATABASE_URL", DATABASE_URL_EXAMPLE);
        let url = url.and_then(|url| self.database_url(url));
        let pool_size = self.positive("DATABASE_POOL_SIZE", 10);
        let wait = self.seconds("DATABASE_STARTUP_TIMEOUT_SECONDS", 60);
        Some(DatabaseConfig {
            url: url?,
            pool_size,
            startup_timeout: wait,
        })
    }

    /// Reads the keys that encrypt secrets in the database. `None` if a problem was recorded.
    pub(crate) fn encryption(&mut self) -> Option<Encryption> {
        let keys = Encryption::new(&self.rotatable_secrets("ENCRYPTION_KEY"));
        keys.map_err(|error| self.problems.push(format!("ENCRYPTION_KEY {error}")))
            .ok()
    }

    /// The message omits the URL, because it contains the password.
    fn database_url(&mut self, text: String) -> Option<SecretString> {
        match text.parse::<DatabaseUrl>() {
            Ok(_) => Some(text.into()),
            Err(wrong) => {
                self.problems.push(format!(
                    "DATABASE_URL cannot be read: {wrong}; it looks like {DATABASE_URL_EXAMPLE}"
                ));
                None
            }
        }
    }
}
