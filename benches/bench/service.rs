//! The release program in a separate process, with the configuration of a deployment.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running service. Dropping it stops it.
pub(crate) struct Service {
    pub(crate) child: Child,
    pub(crate) url: String,
}

impl Service {
    /// Starts the program with only these variables, and waits until it is ready.
    ///
    /// # Errors
    /// If it cannot be started, or is not ready within a minute.
    pub(crate) async fn start(
        program: &Path,
        folder: &Path,
        variables: &[(&str, &str)],
    ) -> Result<Self, Box<dyn Error>> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let url = format!("http://127.0.0.1:{port}");
        let child = Command::new(program)
            .arg("serve")
            .current_dir(folder)
            .env_clear()
            .envs(variables.iter().copied())
            .env("HOST", "127.0.0.1")
            .env("PORT", port.to_string())
            .env("PUBLIC_URL", &url)
            .stdin(Stdio::null())
            .stderr(fs::File::create(folder.join("service.log"))?)
            .spawn()?;
        let service = Self { child, url };
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(2))
            .build()?;
        let since = Instant::now();
        loop {
            let ready = client
                .get(format!("{}/readyz", service.url))
                .send()
                .await
                .is_ok_and(|answer| answer.status().is_success());
            if ready {
                return Ok(service);
            }
            if since.elapsed() > Duration::from_secs(60) {
                let log = folder.join("service.log");
                return Err(format!("the service did not become ready: {}", log.display()).into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns the CPU time that it has used.
    pub(crate) fn cpu(&self) -> Result<Duration, Box<dyn Error>> {
        /// Linux reports hundredths of a second to user space, regardless of its internal clock.
        const TICKS: f64 = 100.0;
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name, in parentheses, may contain spaces. The times are the 12th and 13th fields after it.
        let rest = stat.rsplit_once(')').ok_or("no name in its stat")?.1;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        Ok(Duration::from_secs_f64(ticks / TICKS))
    }

    /// Returns its current and its maximum memory, in MiB.
    pub(crate) fn memory(&self) -> Result<(f64, f64), Box<dyn Error>> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| -> Result<f64, Box<dyn Error>> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
            Ok(kib
                .ok_or("no memory in its status")?
                .trim()
                .parse::<f64>()?
                / 1024.0)
        };
        Ok((field("VmRSS:")?, field("VmHWM:")?))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // The process may already have ended; the caller that awaited it has reported that.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
