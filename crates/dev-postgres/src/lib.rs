//! A private PostgreSQL for development, for machines where none is running.
//!
//! It is the ordinary server, from the programs installed on the machine (or,
//! where there are none, from npm), in a folder of its own that the next run
//! uses again. It listens on 127.0.0.1 only and asks for a password.
//!
//! What holds whatever happens:
//! - The server never outlives the process that started it. A small shell
//!   stands between the two and reads from a pipe that only that process
//!   holds open: when it ends, even by SIGKILL, the shell stops the server.
//! - Nothing that a crash leaves behind stops the next start. Two locks that
//!   the operating system releases by itself say who uses the folder: one is
//!   held by the process, one by the server and every process of it.

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

/// A running PostgreSQL that belongs to this process and ends with it.
///
/// Dropping it stops the server too, without waiting for that.
pub struct DevPostgres {
    child: Child,
    url: String,
    data_dir: DataDir,
}

/// What the server does to keep its data when the machine itself goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Committed data is on disk.
    Durable,
    /// Commits do not wait for the disk. For disposable data, as in tests.
    Disposable,
}

/// Why there is no private PostgreSQL. Every message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server programs are nowhere to be found and could not be fetched.
    #[error(
        "PostgreSQL's server programs are not installed{npm}. Install them with {command}, or set DATABASE_URL to a PostgreSQL that is already running"
    )]
    NotInstalled {
        /// What installs them on this platform, as the end of a sentence.
        command: String,
        /// Why npm could not fetch them, as the end of a sentence; empty where npm was not asked.
        npm: String,
    },
    /// Another process uses the folder and is alive.
    #[error(
        "another Patchbay is using the PostgreSQL in {}: stop it first, or start this one in another folder", folder.display()
    )]
    InUse {
        /// Where the data is.
        folder: PathBuf,
    },
    /// The folder cannot hold a server's data.
    #[error("PostgreSQL cannot keep its data in {}: {reason}", folder.display())]
    Folder {
        /// The folder in question.
        folder: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// A program that has to run first failed.
    #[error("{program} failed: {output}")]
    Program {
        /// The program's name.
        program: String,
        /// What it said.
        output: String,
    },
    /// The server ended, or did not become ready, before it took a connection.
    #[error(
        "PostgreSQL did not start. {} ends with:\n{log_end}\nIf that does not help, remove {} and start again: it holds development data only", log.display(), folder.display()
    )]
    NotStarted {
        /// Where the data is.
        folder: PathBuf,
        /// The server's log.
        log: PathBuf,
        /// The log's last lines.
        log_end: String,
    },
    /// The server runs but refuses this process.
    #[error(
        "PostgreSQL in {} does not let Patchbay in ({source}): remove that folder and start again, it holds development data only", folder.display()
    )]
    Refused {
        /// Where the data is.
        folder: PathBuf,
        /// What the server answered.
        source: sqlx::Error,
    },
    /// The operating system refused something.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: String,
        /// The answer.
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
    /// Starts the server on `folder` and waits until it answers.
    ///
    /// The first start creates the data, a password and a database `patchbay`; later starts reuse
    /// them. If started by root, the server runs as the user `postgres` (or `nobody`). Each user
    /// has a separate folder within `folder`. If that folder cannot be created, or the server's
    /// user cannot access it, the data is stored in a folder under `/var/tmp` named after it.
    ///
    /// # Errors
    /// [`Error`] says what is missing and what to type.
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

    /// `postgres://…@127.0.0.1:<port>/patchbay?sslmode=disable`, with the password.
    ///
    /// The user may create databases. The port changes with every start.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where the data, the password and the server's log are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.data_dir.path()
    }

    /// Stops the server and waits until it has ended. Connections are cut off.
    pub async fn stop(self) {
        let Self { mut child, .. } = self;
        // Waiting closes the pipe first, which is what makes the shell stop the server.
        let ended = tokio::task::spawn_blocking(move || child.wait()).await;
        if let Err(error) = ended.map_err(io::Error::from).flatten() {
            tracing::warn!(%error, "the private PostgreSQL may not have stopped yet");
        }
    }
}
