//! The checks of `patchbay doctor`.
//!
//! The checks change nothing in the database. At Nango, one of them creates a connect session and deletes it.

mod accounts;
mod binding;
mod brakes;
mod database;
mod encryption;
mod nango;
mod session;
mod tokens;
mod web;
mod webhook_events;

use std::fmt;

use serde::Serialize;
use url::Url;

use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::config::Config;
use crate::environment::Variable;

/// The path of the callback, to which providers redirect if Nango's callback URL is Patchbay's.
const CALLBACK_PATH: &str = "/api/v1/connectors/callback";

/// Returns the URL of `path` below `url`.
fn url_below(url: &Url, path: &str) -> String {
    format!("{}{path}", url.as_str().trim_end_matches('/'))
}

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// No problem.
    Ok,
    /// A limitation or a risk.
    Warn,
    /// A failure: part of the service does not work.
    Fail,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The short, stable name of the check.
    pub check: &'static str,
    /// The severity.
    pub level: Level,
    /// The human-readable result.
    pub detail: String,
    /// How to fix the problem; `None` if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remediation: Option<String>,
}

/// The results of all checks.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The findings. A check comes after those on which it depends. If a check found a problem, none of its findings
    /// is [`Level::Ok`].
    pub findings: Vec<Finding>,
}

impl Report {
    /// Returns `true` if no check failed.
    pub fn passes(&self) -> bool {
        self.findings.iter().all(|one| one.level < Level::Fail)
    }

    /// Adds a finding without a problem, unless the check has found one.
    fn ok(&mut self, check: &'static str, detail: impl Into<String>) {
        let has_problem = |one: &Finding| one.check == check && one.level > Level::Ok;
        if !self.findings.iter().any(has_problem) {
            self.push(Level::Ok, check, detail.into(), None);
        }
    }

    fn warn(
        &mut self,
        check: &'static str,
        detail: impl Into<String>,
        remediation: impl Into<String>,
    ) {
        self.problem(Level::Warn, check, detail.into(), remediation.into());
    }

    fn fail(
        &mut self,
        check: &'static str,
        detail: impl Into<String>,
        remediation: impl Into<String>,
    ) {
        self.problem(Level::Fail, check, detail.into(), remediation.into());
    }

    /// Adds a problem. It replaces the check's findings without a problem.
    fn problem(&mut self, level: Level, check: &'static str, detail: String, remediation: String) {
        let is_ok = |one: &Finding| one.check == check && one.level == Level::Ok;
        self.findings.retain(|one| !is_ok(one));
        self.push(level, check, detail, Some(remediation));
    }

    fn push(
        &mut self,
        level: Level,
        check: &'static str,
        detail: String,
        remediation: Option<String>,
    ) {
        self.findings.push(Finding {
            check,
            level,
            detail,
            remediation,
        });
    }
}

/// Writes a human-readable table, with each remediation below its finding.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.findings.iter().map(|one| one.check.len());
        let width = names.max().unwrap_or(0);
        for one in &self.findings {
            let level = match one.level {
                Level::Ok => "ok",
                Level::Warn => "warn",
                Level::Fail => "FAIL",
            };
            writeln!(f, "{level:<4}  {:<width$}  {}", one.check, one.detail)?;
            if let Some(remediation) = &one.remediation {
                writeln!(f, "{:<4}  {:<width$}  -> {remediation}", "", "")?;
            }
        }
        let count = |level| {
            self.findings
                .iter()
                .filter(|one| one.level == level)
                .count()
        };
        writeln!(
            f,
            "{} passed, {} warnings, {} failed",
            count(Level::Ok),
            count(Level::Warn),
            count(Level::Fail)
        )
    }
}

/// Runs all checks with the variables that `lookup` returns. If `token` is given, checks it claim by claim.
pub async fn run<V: Into<Variable>>(
    lookup: &dyn Fn(&str) -> Option<V>,
    token: Option<&str>,
    clock: &Clock,
) -> Report {
    let mut report = Report::default();
    let config = match Config::read(lookup) {
        Ok(config) => config,
        Err(error) => {
            for problem in error.problems {
                let remediation =
                    "set or correct the variable. docs/CONFIGURATION.md lists all variables";
                report.fail("configuration", problem, remediation);
            }
            if let Ok(database) = Config::read_database(lookup) {
                database::check(&mut report, &database, clock).await;
            }
            return report;
        }
    };
    report.ok("configuration", "all variables are valid");
    let catalog = match Catalog::load(config.catalog_file.as_deref()) {
        Ok(catalog) => catalog,
        Err(error) => {
            report.fail("catalog", error.to_string(), "correct CATALOG_FILE");
            Catalog::builtin()
        }
    };
    database::check(&mut report, &config.database, clock).await;
    accounts::check_connections(&mut report, &config.database).await;
    encryption::check(&mut report, &config, clock).await;
    nango::check(&mut report, &config, &catalog, clock).await;
    web::check(&mut report, &config).await;
    if config.nango.is_some() {
        webhook_events::check(&mut report, &config.database).await;
        binding::check(&mut report, &config.http);
    }
    brakes::check(&mut report, &config, clock).await;
    let public_url = &config.http.public_url;
    tokens::check(&mut report, &config.auth, public_url, token, clock).await;
    report
}
