//! The operating system's user that runs the server.

use std::ffi::OsStr;
use std::num::ParseIntError;
use std::os::unix::fs::lchown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::Error;

/// The user that runs the server. PostgreSQL refuses to run as root, so root runs it as another user.
pub(super) struct OsUser {
    name: String,
    uid: u32,
    gid: u32,
    is_root: bool,
}

impl OsUser {
    /// Returns the current user, or an unprivileged one if the current user is root.
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

    /// Returns the user's name, for messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the user's id.
    pub(super) fn uid(&self) -> u32 {
        self.uid
    }

    /// Returns `true` if this process is root and the server runs as another user.
    pub(super) fn runs_as_other_user(&self) -> bool {
        self.is_root
    }

    /// Returns a command that runs as this user. It runs in a folder that every user may read, and without this
    /// process's environment, which may contain Patchbay's secrets.
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

    /// Returns `true` if the user can write in `folder` and access the folders above it.
    pub(super) fn can_write_in(&self, folder: &Path) -> bool {
        self.command("/bin/sh")
            .args(["-c", r#"cd "$0" && test -w ."#])
            .arg(folder)
            .stdin(Stdio::null())
            .output()
            .is_ok_and(|output| output.status.success())
    }

    /// Makes the user the owner of a file or folder that this process created.
    pub(super) fn chown_to(&self, path: &Path) -> std::io::Result<()> {
        if self.is_root {
            lchown(path, Some(self.uid), Some(self.gid))?;
        }
        Ok(())
    }

    /// Makes the user the owner of a tree that this process created.
    pub(super) fn chown_tree(&self, path: &Path) -> Result<(), Error> {
        if !self.is_root {
            return Ok(());
        }
        let owner = format!("{}:{}", self.uid, self.gid);
        run(Command::new("chown").args(["-R", &owner]).arg(path)).map(drop)
    }
}

/// Returns the name, user id and group id of `user`, or of the current user.
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
    // A container may run as a user id without a name.
    let name = user.map_or_else(|| format!("user {uid}"), ToOwned::to_owned);
    Ok((name, uid, gid))
}

/// Runs a command to completion. The error of a failure contains its output.
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
