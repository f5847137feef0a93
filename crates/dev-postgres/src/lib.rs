//! A private PostgreSQL for development on machines without one.
//!
//! It is the ordinary server, from the programs installed on the machine or, without any, from npm. Its folder is
//! reused by the next run. It listens on 127.0.0.1 only and requires a password.
//!
//! Guarantees:
//! - The server never outlives the process that started it. A shell between the two reads from a pipe that only that
//!   process holds open. When the process ends, even by SIGKILL, the shell stops the server.
//! - After a crash the next start succeeds. Two locks show who uses the folder: one is held by this process, one by all
//!   processes of the server. The operating system releases them when their processes end.

mod account;
mod home;
mod programs;
mod server;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Child;

use crate::account::OsUser;
use crate::home::DataDir;
use crate::programs::Binaries;

/// A running PostgreSQL that this process started and that ends with it.
///
/// Dropping it stops the server without waiting for its end. [`stop`](Self::stop) waits.
pub struct DevPostgres {
    child: Child,
    url: String,
    data_dir: DataDir,
}

/// Whether committed data survives a crash of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Committed data is on disk.
    Durable,
    /// Commits do not wait for the disk. For disposable data, as in tests.
    Disposable,
}

/// The reason why a private PostgreSQL did not start. Every message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server programs were not found and could not be fetched.
    #[error(
        "PostgreSQL's server programs are not installed{npm}. Install them with {command}, or set DATABASE_URL to a PostgreSQL that is already running"
    )]
    NotInstalled {
        /// The command that installs them on this platform, as the end of a sentence.
        command: String,
        /// Why npm could not fetch them, as the end of a sentence; empty if npm was not tried.
        npm: String,
    },
    /// Another running process uses the folder.
    #[error(
        "another Patchbay is using the PostgreSQL in {}: stop it first, or start this one in another folder", folder.display()
    )]
    InUse {
        /// The folder of the data.
        folder: PathBuf,
    },
    /// The folder cannot hold a server's data.
    #[error("PostgreSQL cannot keep its data in {}: {reason}", folder.display())]
    Folder {
        /// The folder in question.
        folder: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// A required program failed.
    #[error("{program} failed: {output}")]
    Program {
        /// The program's name.
        program: String,
        /// The program's output.
        output: String,
    },
    /// The server ended or timed out before it accepted a connection.
    #[error(
        "PostgreSQL did not start. {} ends with:\n{log_end}\nIf that does not help, remove {} and start again: it holds development data only", log.display(), folder.display()
    )]
    NotStarted {
        /// The folder of the data.
        folder: PathBuf,
        /// The server's log.
        log: PathBuf,
        /// The log's last lines.
        log_end: String,
    },
    /// The server runs but rejects this process.
    #[error(
        "PostgreSQL in {} rejects Patchbay ({source}): remove that folder and start again, it holds development data only", folder.display()
    )]
    Refused {
        /// The folder of the data.
        folder: PathBuf,
        /// The server's error.
        source: sqlx::Error,
    },
    /// The operating system returned an error.
    #[error("cannot {action}: {source}")]
    System {
        /// The failed action.
        action: String,
        /// The error.
        source: io::Error,
    },
}

impl Error {
    fn system(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::System { action, source }
    }
}

impl DevPostgres {
    /// Starts a server with the data in `folder` and waits until it accepts connections.
    ///
    /// The first start creates the data, a password and a database `patchbay`; later starts reuse
    /// them. If started by root, the server runs as the user `postgres` (or `nobody`). Each user
    /// has a separate folder within `folder`. If that folder cannot be created, or the server's
    /// user cannot access it, the data is stored in a folder under `/var/tmp` named after it.
    ///
    /// # Errors
    /// [`Error`] says what is missing and which command to run.
    pub async fn start(folder: &Path, durability: Durability) -> Result<Self, Error> {
        let folder = folder.to_owned();
        let preparing = tokio::task::spawn_blocking(move || {
            let account = OsUser::current()?;
            let data_dir = DataDir::open(&folder, &account)?;
            let programs = Binaries::find(&programs::search_paths(), &data_dir, &account)?;
            data_dir.initialise(&programs, &account, durability)?;
            Ok((account, data_dir, programs))
        });
        let (account, data_dir, programs) = preparing
            .await
            .map_err(io::Error::from)
            .map_err(Error::system("prepare PostgreSQL's folder"))??;
        let (child, url) = server::start(&programs, &account, &data_dir, durability).await?;
        Ok(Self {
            child,
            url,
            data_dir,
        })
    }

    /// Returns the URL `postgres://…@127.0.0.1:<port>/patchbay?sslmode=disable`, with the password.
    ///
    /// The user may create databases. The port changes with every start.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the folder of the data, the password and the server's log.
    pub fn folder(&self) -> &Path {
        self.data_dir.path()
    }

    /// Stops the server and waits until it has ended. Open connections are closed.
    pub async fn stop(self) {
        let Self { mut child, .. } = self;
        // `wait` first closes the pipe, which makes the shell stop the server.
        let ended = tokio::task::spawn_blocking(move || child.wait()).await;
        if let Err(error) = ended.map_err(io::Error::from).flatten() {
            tracing::warn!(%error, "the private PostgreSQL may not have stopped yet");
        }
    }
}
