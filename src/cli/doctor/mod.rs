//! The setup's checklist: what `patchbay check` looks at, and what it says.
//!
//! Nothing is changed by it, neither in the database nor at Nango.

mod binding;
mod brakes;
mod database;
mod encryption;
mod nango;
mod tokens;
mod web;

use std::fmt;

use serde::Serialize;
use url::Url;

use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::config::Config;

/// Where providers return to, should they return to the product's own domain.
const CALLBACK_PATH: &str = "/api/v1/connectors/callback";

/// An address below the public one.
fn url_below(url: &Url, path: &str) -> String {
    format!("{}{path}", url.as_str().trim_end_matches('/'))
}

/// How good a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it has to be.
    Ok,
    /// It works, and somebody should know.
    Warn,
    /// It does not work.
    Fail,
}

/// A line of the checklist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: a short name that does not change.
    pub check: &'static str,
    /// How good it is.
    pub level: Level,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remediation: Option<String>,
}

/// All that was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The findings, in the order in which things depend on each other.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether nothing fails.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.findings.iter().all(|line| line.level < Level::Fail)
    }

    fn ok(&mut self, check: &'static str, detail: impl Into<String>) {
        self.findings.push(Finding {
            check,
            level: Level::Ok,
            detail: detail.into(),
            remediation: None,
        });
    }

    fn warn(
        &mut self,
        check: &'static str,
        detail: impl Into<String>,
        remediation: impl Into<String>,
    ) {
        self.findings.push(Finding {
            check,
            level: Level::Warn,
            detail: detail.into(),
            remediation: Some(remediation.into()),
        });
    }

    fn fail(
        &mut self,
        check: &'static str,
        detail: impl Into<String>,
        remediation: impl Into<String>,
    ) {
        self.findings.push(Finding {
            check,
            level: Level::Fail,
            detail: detail.into(),
            remediation: Some(remediation.into()),
        });
    }
}

/// A table for people: what to do about a line is below it.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.findings.iter().map(|line| line.check.len());
        let width = names.max().unwrap_or(0);
        for line in &self.findings {
            let level = match line.level {
                Level::Ok => "ok",
                Level::Warn => "warn",
                Level::Fail => "FAIL",
            };
            writeln!(f, "{level:<4}  {:<width$}  {}", line.check, line.detail)?;
            if let Some(remediation) = &line.remediation {
                writeln!(f, "{:<4}  {:<width$}  -> {remediation}", "", "")?;
            }
        }
        let count = |level| {
            self.findings
                .iter()
                .filter(|line| line.level == level)
                .count()
        };
        writeln!(
            f,
            "{} ok, {} to know, {} to mend",
            count(Level::Ok),
            count(Level::Warn),
            count(Level::Fail)
        )
    }
}

/// Looks at all that a service with these variables needs. A `token` is explained claim by claim.
pub async fn run(
    lookup: &dyn Fn(&str) -> Option<String>,
    token: Option<&str>,
    clock: &Clock,
) -> Report {
    let mut report = Report::default();
    let config = match Config::read(lookup) {
        Ok(config) => config,
        Err(error) => {
            for problem in error.problems {
                let remediation = "set it, or correct it: the README has a table of all variables";
                report.fail("configuration", problem, remediation);
            }
            if let Ok(database) = Config::read_database(lookup) {
                database::check(&mut report, &database, clock).await;
            }
            return report;
        }
    };
    report.ok("configuration", "every variable can be read");
    let catalog = match Catalog::load(config.catalog_file.as_deref()) {
        Ok(catalog) => catalog,
        Err(error) => {
            report.fail("catalog", error.to_string(), "correct CATALOG_FILE");
            Catalog::builtin()
        }
    };
    database::check(&mut report, &config.database, clock).await;
    encryption::check(&mut report, &config, clock).await;
    nango::check(&mut report, config.nango.as_ref(), &catalog, clock).await;
    web::check(&mut report, &config).await;
    if config.nango.is_some() {
        binding::check(&mut report, &config.http);
    }
    brakes::check(&mut report, &config, clock).await;
    tokens::check(&mut report, &config.auth, token, clock).await;
    report
}
