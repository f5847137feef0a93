//! The service as a process that is killed and restarted.

use std::path::PathBuf;
use std::process::Stdio;

use reqwest::Client;
use tokio::process::{Child, Command};

use crate::eventually::eventually;

/// A running `patchbay serve`. Dropping the value kills it.
pub(super) struct ServiceProcess {
    child: Child,
}

/// The configuration of each start.
pub(super) struct LaunchConfig {
    pub(super) binary: PathBuf,
    pub(super) settings: Vec<(&'static str, String)>,
    /// The folder in which it runs and stores its log.
    pub(super) folder: PathBuf,
    pub(super) url: String,
    pub(super) client: Client,
}

impl LaunchConfig {
    /// Starts the service, and waits until it is ready.
    pub(super) async fn start(&self) -> ServiceProcess {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("service.log"))
            .unwrap();
        let child = Command::new(&self.binary)
            .arg("serve")
            .current_dir(&self.folder)
            .env_clear()
            .envs(self.settings.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut process = ServiceProcess { child };
        eventually(async || {
            if let Some(status) = process.child.try_wait().unwrap() {
                panic!(
                    "the service ended by itself ({status}): see {:?}",
                    self.folder
                );
            }
            let answer = self.client.get(format!("{}/readyz", self.url)).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        process
    }
}

impl ServiceProcess {
    /// Ends the process with SIGKILL.
    pub(super) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}
