//! The load generators: wrk for HTTP, pgbench for SQL. Both run for a limited time, against 127.0.0.1 only.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The result of a load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Responses per second.
    pub(crate) rate: f64,
    /// The median latency.
    pub(crate) p50: Duration,
    /// The 99th percentile of the latency.
    pub(crate) p99: Duration,
    /// The total number of responses.
    pub(crate) answers: f64,
}

/// An HTTP request. A load repeats a list of them.
pub(crate) struct Request {
    pub(crate) method: &'static str,
    /// The path with its query.
    pub(crate) path: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn get(path: impl Into<String>, token: &str) -> Self {
        Self {
            method: "GET",
            path: path.into(),
            headers: vec![("authorization", format!("Bearer {token}"))],
            body: String::new(),
        }
    }

    pub(crate) fn post(path: impl Into<String>, token: &str) -> Self {
        Self {
            method: "POST",
            ..Self::get(path, token)
        }
    }

    fn lua(&self) -> String {
        let mut headers = String::new();
        for (name, value) in &self.headers {
            let _ = write!(headers, "[{name:?}]={value:?},");
        }
        let (method, path, body) = (self.method, &self.path, &self.body);
        format!("wrk.format({method:?}, {path:?}, {{{headers}}}, {body:?})")
    }
}

/// Repeats requests over this many connections, each with one request at a time.
///
/// # Errors
/// If wrk fails, or a response is an error.
pub(crate) fn wrk(
    folder: &Path,
    url: &str,
    requests: &[Request],
    connections: usize,
    seconds: u64,
) -> Result<Load, Box<dyn Error>> {
    let mut script = "local all = {}\nfunction init(_)\n".to_owned();
    for request in requests {
        let _ = writeln!(script, "all[#all + 1] = {}", request.lua());
    }
    script.push_str(REST_OF_SCRIPT);
    let file = folder.join("load.lua");
    fs::write(&file, script)?;
    let done = Command::new("wrk")
        .arg("--threads=2")
        .arg(format!("--connections={}", connections.max(2)))
        .arg(format!("--duration={seconds}s"))
        .arg("--timeout=10s")
        .arg("--script")
        .arg(&file)
        .arg(url)
        .output()?;
    let text = String::from_utf8(done.stdout)?;
    let figures: Vec<f64> = text
        .lines()
        .find_map(|line| line.strip_prefix("figures "))
        .ok_or_else(|| format!("wrk said {text}{}", String::from_utf8_lossy(&done.stderr)))?
        .split(' ')
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let &[answers, took, p50, p99, errors] = figures.as_slice() else {
        return Err(format!("wrk said {text}").into());
    };
    if errors > 0.0 {
        return Err(format!("{errors} of {answers} answers were no success: {text}").into());
    }
    Ok(Load {
        rate: answers / (took / 1e6),
        p50: Duration::from_secs_f64(p50 / 1e6),
        p99: Duration::from_secs_f64(p99 / 1e6),
        answers,
    })
}

/// Each of wrk's threads starts at another request. `done` prints microseconds.
const REST_OF_SCRIPT: &str = "
  math.randomseed(tonumber(tostring(wrk.thread):match('0x(%x+)'), 16))
  next_one = math.random(#all)
end
function request()
  next_one = next_one % #all + 1
  return all[next_one]
end
function done(summary, latency, _)
  local e = summary.errors
  print(string.format('figures %d %d %d %d %d', summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
";

/// Runs an SQL script with prepared statements over this many connections.
///
/// # Errors
/// If pgbench fails.
pub(crate) fn pgbench(
    folder: &Path,
    database: &str,
    sql: &str,
    connections: usize,
    seconds: u64,
) -> Result<Load, Box<dyn Error>> {
    let file = folder.join("load.sql");
    fs::write(&file, sql)?;
    let log = folder.join("pgbench");
    let done = Command::new(program()?)
        .args(["--no-vacuum", "--protocol=prepared", "--jobs=2", "--log"])
        .arg(format!("--client={connections}"))
        .arg(format!("--time={seconds}"))
        .arg(format!("--log-prefix={}", log.display()))
        .arg("--file")
        .arg(&file)
        .arg(database)
        .output()?;
    let text = String::from_utf8(done.stdout)?;
    let rate = text
        .lines()
        .find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok())
        .ok_or_else(|| {
            format!(
                "pgbench said {text}{}",
                String::from_utf8_lossy(&done.stderr)
            )
        })?;
    let mut times = times(folder)?;
    times.sort_unstable();
    let at = |share: usize| Duration::from_micros(times[(times.len() - 1) * share / 100]);
    Ok(Load {
        rate,
        p50: at(50),
        p99: at(99),
        answers: times.len() as f64,
    })
}

/// Returns each transaction's latency in microseconds: the third column of pgbench's logs, which are removed.
fn times(folder: &Path) -> Result<Vec<u64>, Box<dyn Error>> {
    let mut times = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("pgbench.") {
            for line in fs::read_to_string(&path)?.lines() {
                let time = line.split(' ').nth(2).ok_or("a log without times")?;
                times.push(time.parse()?);
            }
            fs::remove_file(&path)?;
        }
    }
    Ok(times)
}

/// Returns the path of pgbench, which Debian installs next to the server and not on `PATH`.
fn program() -> Result<PathBuf, Box<dyn Error>> {
    let installed = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin/pgbench"))
        .filter(|program| program.is_file())
        .max();
    match installed {
        Some(program) => Ok(program),
        None if Command::new("pgbench").arg("--version").output().is_ok() => Ok("pgbench".into()),
        None => Err("pgbench is not installed: it comes with PostgreSQL's server".into()),
    }
}
