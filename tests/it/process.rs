//! The program as a separate process.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::{env, io};

use reqwest::StatusCode;
use serde_json::Value;
use tokio::process::{Child, Command};
use uuid::Uuid;

use crate::eventually::{TIMEOUT, eventually_value};
use crate::test_app::client;

/// A running `patchbay` with only the given environment variables. Dropping it kills the process.
pub(crate) struct Process {
    child: Child,
    folder: PathBuf,
}

impl Process {
    /// Starts the program in a new folder.
    pub(crate) fn start(arguments: &[&str], settings: &[(&str, &str)]) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_patchbay"));
        Self::start_in(&new_folder(), program, arguments, settings).unwrap()
    }

    /// Starts a program in a writable folder, which is removed when the value is dropped.
    pub(crate) fn start_in(
        folder: &Path,
        program: &Path,
        arguments: &[&str],
        settings: &[(&str, &str)],
    ) -> io::Result<Self> {
        let output = File::create(folder.join("output"))?;
        let outputs = [output.try_clone()?.into(), output.into()];
        Self::spawn(folder, program, arguments, settings, outputs)
    }

    /// Starts the program with closed outputs.
    pub(crate) fn start_with_closed_output(arguments: &[&str], settings: &[(&str, &str)]) -> Self {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let outputs = [writer.try_clone().unwrap().into(), writer.into()];
        let program = Path::new(env!("CARGO_BIN_EXE_patchbay"));
        Self::spawn(&new_folder(), program, arguments, settings, outputs).unwrap()
    }

    fn spawn(
        folder: &Path,
        program: &Path,
        arguments: &[&str],
        settings: &[(&str, &str)],
        [output, errors]: [Stdio; 2],
    ) -> io::Result<Self> {
        let child = Command::new(program)
            .args(arguments)
            .current_dir(folder)
            .env_clear()
            .envs(env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self {
            child,
            folder: folder.to_owned(),
        })
    }

    /// Runs a document's script in the program's folder, where `patchbay` uses this database.
    pub(crate) async fn follows(&self, script: &str, database: &str) {
        let programs = Path::new(env!("CARGO_BIN_EXE_patchbay")).parent().unwrap();
        let path = env::var("PATH").unwrap();
        let ran = Command::new("timeout")
            .args(["120", "bash", "-euxo", "pipefail", "-c", script])
            .current_dir(&self.folder)
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("DATABASE_URL", database)
            .output()
            .await
            .unwrap();
        assert!(
            ran.status.success(),
            "{}\n{}\n{}",
            String::from_utf8_lossy(&ran.stdout),
            String::from_utf8_lossy(&ran.stderr),
            self.output()
        );
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) async fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args(["-s", name, &self.id().to_string()])
            .status();
        assert!(sent.await.unwrap().success());
    }

    /// Waits until the process has ended.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(TIMEOUT, self.child.wait()).await;
        match ended {
            Ok(status) => status.unwrap(),
            Err(_elapsed) => panic!("it goes on: {}", self.output()),
        }
    }

    /// Returns all output of the process.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(self.folder.join("output")).unwrap_or_else(|_unread| String::new())
    }

    /// Waits until `/readyz` has this status. Returns the body.
    pub(crate) async fn until_ready_is(&mut self, url: &str, status: StatusCode) -> Value {
        let readiness = async || {
            if let Ok(Some(ended)) = self.child.try_wait() {
                panic!("it ended with {ended}: {}", self.output());
            }
            let answer = client().get(format!("{url}/readyz")).send().await;
            (answer, self.output())
        };
        let (answer, _) = eventually_value(readiness, |(answer, _)| {
            answer
                .as_ref()
                .is_ok_and(|answer| answer.status() == status)
        })
        .await;
        answer.unwrap().json().await.unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Processes that it started may still be writing.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Creates an empty folder outside the checkout, without a `.env` and accessible to every user.
pub(crate) fn new_folder() -> PathBuf {
    let folder = env::temp_dir().join(format!("patchbay-test-{}", Uuid::new_v4()));
    fs::create_dir_all(&folder).unwrap();
    folder
}
