//! The operating system's user that the server runs as.

use std::ffi::OsStr;
use std::num::ParseIntError;
use std::os::unix::fs::lchown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::Error;

/// Whom the server runs as. PostgreSQL refuses to run as root, so root lends it another user.
pub(super) struct OsUser {
    name: String,
    uid: u32,
    gid: u32,
    is_root: bool,
}

impl OsUser {
    /// The current user, or for root an unprivileged one.
    pub(super) fn current() -> Result<Self, Error> {
        let (name, uid, gid) = find_user(None)?;
        if uid != 0 {
            return Ok(Self {
                name,
                uid,
                gid,
                is_root: false,
            });
        }
        let (name, uid, gid) =
            find_user(Some("postgres")).or_else(|_| find_user(Some("nobody")))?;
        Ok(Self {
            name,
            uid,
            gid,
            is_root: true,
        })
    }

    /// The user's name, for messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The user's number.
    pub(super) fn uid(&self) -> u32 {
        self.uid
    }

    /// `true` if this process is root and the server runs as another user.
    pub(super) fn runs_as_other_user(&self) -> bool {
        self.is_root
    }

    /// A command that runs as this user, away from any folder that the user may not see, and
    /// without this process's environment: the server has no use for Patchbay's secrets.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir("/")
            .env_clear()
            .env("LC_ALL", "C")
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        if self.is_root {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// Whether the user can write in `folder`, the folders above it included.
    pub(super) fn can_write_in(&self, folder: &Path) -> bool {
        self.command("/bin/sh")
            .args(["-c", r#"cd "$0" && test -w ."#])
            .arg(folder)
            .stdin(Stdio::null())
            .output()
            .is_ok_and(|output| output.status.success())
    }

    /// Gives a file or folder that this process made to the user.
    pub(super) fn chown_to(&self, path: &Path) -> std::io::Result<()> {
        if self.is_root {
            lchown(path, Some(self.uid), Some(self.gid))?;
        }
        Ok(())
    }

    /// Gives a whole tree that this process made to the user.
    pub(super) fn chown_tree(&self, path: &Path) -> Result<(), Error> {
        if !self.is_root {
            return Ok(());
        }
        let owner = format!("{}:{}", self.uid, self.gid);
        run(Command::new("chown").args(["-R", &owner]).arg(path)).map(drop)
    }
}

/// Name, user and group number of `user`, or of the current user.
fn find_user(user: Option<&str>) -> Result<(String, u32, u32), Error> {
    let ask = |option: &str| {
        let output = run(Command::new("id").arg(option).args(user))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let number = |option: &str| {
        ask(option)?
            .parse()
            .map_err(|error: ParseIntError| Error::Program {
                program: format!("id {option}"),
                output: error.to_string(),
            })
    };
    let (uid, gid) = (number("-u")?, number("-g")?);
    // A container may run as a number that has no name.
    let name = user.map_or_else(|| format!("user {uid}"), ToOwned::to_owned);
    Ok((name, uid, gid))
}

/// Runs a command to its end; a failure carries what it said.
pub(super) fn run(command: &mut Command) -> Result<Output, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(Error::system(format!("run {program}")))?;
    if output.status.success() {
        return Ok(output);
    }
    let mut message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if message.is_empty() {
        message = output.status.to_string();
    }
    Err(Error::Program {
        program,
        output: message,
    })
}
