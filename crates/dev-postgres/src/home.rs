//! The folder of a private PostgreSQL.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::account::{self, OsUser};
use crate::programs::Binaries;
use crate::{Durability, Error};

/// How long a server may take to stop after the process that started it was killed.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(60);

/// The folder, locked by this process until the value is dropped.
pub(super) struct DataDir {
    path: PathBuf,
    // The operating system releases the lock when this process ends, even by a crash.
    _owner_lock: File,
    server_lock: File,
}

impl DataDir {
    /// Finds or creates the folder, locks it, and waits until no server uses it.
    pub(super) fn open(folder: &Path, account: &OsUser) -> Result<Self, Error> {
        let path = choose_folder(folder, account)?;
        let in_use = || Error::InUse {
            folder: path.clone(),
        };
        let owner_lock = lock(&path.join("owner.lock"), Duration::ZERO)?.ok_or_else(in_use)?;
        let server_lock = lock(&path.join("server.lock"), SHUTDOWN_TIMEOUT)?.ok_or_else(in_use)?;
        Ok(Self {
            path,
            _owner_lock: owner_lock,
            server_lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path.join("server.log")
    }

    /// Returns the folder of the data of one major version. Another version cannot read it.
    pub(super) fn data(&self, programs: &Binaries) -> PathBuf {
        self.path.join(format!("data-{}", programs.major))
    }

    /// Returns a lock file that the server inherits: the lock is held until its last process ends.
    pub(super) fn server_lock(&self) -> Result<File, Error> {
        self.server_lock
            .try_clone()
            .map_err(Error::system("hand PostgreSQL its lock"))
    }

    /// Creates the data and the password if they do not exist.
    pub(super) fn initialise(
        &self,
        programs: &Binaries,
        account: &OsUser,
        durability: Durability,
    ) -> Result<(), Error> {
        let data = self.data(programs);
        if data.exists() {
            // The lock shows that no server runs here, so a pid file is left from a crash. PostgreSQL would mistake
            // another process that now has its id for a server.
            return remove_file(&data.join("postmaster.pid"))
                .map_err(Error::system("remove PostgreSQL's old pid file"));
        }
        let password_file = self.password_file();
        if self.password()?.is_empty() {
            write_password(&password_file, account)
                .map_err(Error::system("write PostgreSQL's password"))?;
        }
        // Created under another name first, so that incomplete data is never used.
        let unfinished = self.path.join("data.new");
        match fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Error::system("remove half-made data")(error));
            }
            _ => {}
        }
        // SCRAM derives a key for each connection, which is a large part of the processor time of short tests.
        let auth = match durability {
            Durability::Durable => "--auth=scram-sha-256",
            Durability::Disposable => "--auth=md5",
        };
        let mut initdb = account.command(programs.bin.join("initdb"));
        initdb
            .args(["--username=patchbay", auth])
            .args(["--encoding=UTF8", "--locale=C"])
            .arg("--pwfile")
            .arg(&password_file)
            .arg("--pgdata")
            .arg(&unfinished);
        if durability == Durability::Disposable {
            initdb.arg("--no-sync");
        }
        account::run(&mut initdb)?;
        fs::rename(&unfinished, &data).map_err(Error::system("put PostgreSQL's data in place"))
    }

    /// Returns the password of the user `patchbay`; empty if there is none yet.
    pub(super) fn password(&self) -> Result<String, Error> {
        match fs::read_to_string(self.password_file()) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
            read => read.map_err(Error::system("read PostgreSQL's password")),
        }
    }

    fn password_file(&self) -> PathBuf {
        self.path.join("password")
    }
}

/// Removes a file if it exists.
fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn write_password(path: &Path, account: &OsUser) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    remove_file(&unfinished)?;
    // A new file: an existing one could be a link to elsewhere.
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)?;
    file.write_all(Uuid::new_v4().simple().to_string().as_bytes())?;
    account.chown_to(&unfinished)?;
    fs::rename(&unfinished, path)
}

/// Returns the first folder in which the server's user can work: its own within `folder`, or one under `/var/tmp`. The
/// checkout may be below `/root`, on a disk without permissions, or read-only.
fn choose_folder(folder: &Path, account: &OsUser) -> Result<PathBuf, Error> {
    let folder =
        std::path::absolute(folder).map_err(Error::system("tell the current directory"))?;
    let wanted = folder.join(account.uid().to_string());
    let Err(reason) = claim_folder(&wanted, account) else {
        return Ok(wanted);
    };
    let name = Uuid::new_v5(&Uuid::NAMESPACE_URL, wanted.as_os_str().as_encoded_bytes());
    let fallback = Path::new("/var/tmp").join(format!("patchbay-postgres-{}", name.simple()));
    match claim_folder(&fallback, account) {
        Ok(()) => {
            tracing::info!(folder = %fallback.display(), "PostgreSQL's data is kept elsewhere: {reason}");
            Ok(fallback)
        }
        Err(other) => Err(Error::Folder {
            folder: wanted,
            reason: format!("{reason}; nor in {}: {other}", fallback.display()),
        }),
    }
}

/// Creates `folder` if it is missing and checks that only the server's user can access it.
fn claim_folder(folder: &Path, account: &OsUser) -> Result<(), String> {
    let plain = |error: io::Error| format!("{}: {error}", folder.display());
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent).map_err(plain)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(plain(error)),
        _ => {}
    }
    let found = fs::symlink_metadata(folder).map_err(plain)?;
    if !found.is_dir() {
        return Err(format!("{} is not a folder: remove it", folder.display()));
    }
    if account.runs_as_other_user() && found.uid() == 0 {
        account.chown_to(folder).map_err(plain)?;
    } else if found.uid() != account.uid() {
        return Err(format!(
            "{} belongs to another user: remove it",
            folder.display()
        ));
    }
    if found.mode() & 0o077 != 0 {
        return Err(format!(
            "others may read {}: run `chmod 700` on it",
            folder.display()
        ));
    }
    if !account.can_write_in(folder) {
        return Err(format!(
            "{} cannot reach {}",
            account.name(),
            folder.display()
        ));
    }
    Ok(())
}

/// Locks a file. Returns `None` if it is still locked after `timeout`.
fn lock(path: &Path, timeout: Duration) -> Result<Option<File>, Error> {
    let failed = || format!("lock {}", path.display());
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::system(failed()))?;
    let since = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::Error(error)) => return Err(Error::system(failed())(error)),
            Err(TryLockError::WouldBlock) if since.elapsed() >= timeout => return Ok(None),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
