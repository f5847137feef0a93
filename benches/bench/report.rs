//! The results: printed, and written into the documents.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::chart;
use crate::load::Load;

/// The parts of a run, in the order of the tables.
const SECTIONS: [&str; 10] = [
    "program",
    "reads",
    "tokens",
    "connect",
    "webhooks",
    "memory",
    "streams",
    "burst",
    "endpoints",
    "sweep",
];

/// The results of all sections, each from the last run that measured it.
#[derive(Default, Deserialize, Serialize)]
#[serde(transparent)]
pub(crate) struct Results(BTreeMap<String, Section>);

/// What one run measured of one part.
#[derive(Deserialize, Serialize)]
struct Section {
    run: String,
    rows: Vec<Row>,
    metrics: Vec<Metric>,
}

/// A load that the service or a baseline was under.
#[derive(Deserialize, Serialize)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) rate: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// The service's processor time for an answer; `None` for a baseline.
    cpu_us: Option<f64>,
}

/// A value with its bound.
#[derive(Deserialize, Serialize)]
struct Metric {
    what: String,
    value: f64,
    bound: String,
    kept: bool,
}

/// All of a run.
pub(crate) struct Report {
    run: String,
    current: &'static str,
    results: Results,
}

impl Report {
    /// A report with the description of this machine and this program's size.
    ///
    /// # Errors
    /// When the program is not there.
    pub(crate) fn new(program: &Path) -> Result<Self, Box<dyn Error>> {
        let mut report = Self {
            run: run()?,
            current: SECTIONS[0],
            results: Results::default(),
        };
        let size = fs::metadata(program)
            .map_err(|error| format!("{}: {error}", program.display()))?
            .len() as f64
            / 1024.0
            / 1024.0;
        report.at_most("program, MiB", size, 25.0);
        Ok(report)
    }

    /// Starts a section: what follows belongs to it.
    pub(crate) fn section(&mut self, name: &'static str) {
        assert!(
            SECTIONS.contains(&name),
            "{name} has no place in the tables"
        );
        self.current = name;
    }

    /// Adds a load that the service, or a baseline where `cpu` is not known, was under.
    pub(crate) fn add(&mut self, what: &str, load: Load, cpu: Option<Duration>) {
        println!(
            "{what}: {:.0}/s, p50 {:?}, p99 {:?}",
            load.rate, load.p50, load.p99
        );
        let row = Row {
            what: what.to_owned(),
            rate: rounded(load.rate, 1.0),
            p50_ms: rounded(load.p50.as_secs_f64() * 1e3, 100.0),
            p99_ms: rounded(load.p99.as_secs_f64() * 1e3, 100.0),
            cpu_us: cpu.map(|cpu| rounded(cpu.as_secs_f64() * 1e6, 1.0)),
        };
        self.open().rows.push(row);
    }

    /// Adds a value that should be at least this.
    pub(crate) fn at_least(&mut self, what: &str, value: f64, bound: f64) {
        self.metric(what, value, format!("≥ {bound}"), value >= bound);
    }

    /// Adds a value that should be at most this.
    pub(crate) fn at_most(&mut self, what: &str, value: f64, bound: f64) {
        self.metric(what, value, format!("≤ {bound}"), value <= bound);
    }

    fn metric(&mut self, what: &str, value: f64, bound: String, kept: bool) {
        println!("{what}: {value:.2} ({bound})");
        self.open().metrics.push(Metric {
            what: what.to_owned(),
            value: rounded(value, 100.0),
            bound,
            kept,
        });
    }

    fn open(&mut self) -> &mut Section {
        let run = &self.run;
        let sections = &mut self.results.0;
        sections
            .entry(self.current.to_owned())
            .or_insert_with(|| Section {
                run: run.clone(),
                rows: Vec::new(),
                metrics: Vec::new(),
            })
    }

    /// Prints it.
    pub(crate) fn print(&self) {
        println!("\n{}", self.results.tables());
    }

    /// Replaces the sections of this run in `docs/benchmark.json`, and draws the tables and the chart from it.
    ///
    /// # Errors
    /// When a document cannot be written, or does not say where.
    pub(crate) fn write(self, docs: &Path) -> Result<(), Box<dyn Error>> {
        const BEGIN: &str = "<!-- measured -->\n";
        const END: &str = "<!-- end -->";
        let stored = docs.join("benchmark.json");
        let mut results: Results = match fs::read_to_string(&stored) {
            Ok(text) => serde_json::from_str(&text)?,
            Err(_) => Results::default(),
        };
        results.0.extend(self.results.0);
        let json = serde_json::to_string_pretty(&results)?;
        fs::write(&stored, format!("{json}\n"))?;
        let document = docs.join("PERFORMANCE.md");
        let text = fs::read_to_string(&document)?;
        let (before, rest) = text.split_once(BEGIN).ok_or("no place for the tables")?;
        let (_, after) = rest.split_once(END).ok_or("no end of the tables")?;
        let new = format!("{before}{BEGIN}\n{}\n{END}{after}", results.tables());
        fs::write(&document, new)?;
        Ok(fs::write(
            docs.join("charts/benchmark.svg"),
            chart::draw(&results),
        )?)
    }
}

impl Results {
    /// The row of this name.
    pub(crate) fn row(&self, what: &str) -> Option<&Row> {
        let mut rows = self.0.values().flat_map(|section| &section.rows);
        rows.find(|row| row.what == what)
    }

    /// The runs, each with its sections.
    pub(crate) fn runs(&self) -> Vec<(&str, Vec<&str>)> {
        let mut runs: Vec<(&str, Vec<&str>)> = Vec::new();
        for (name, section) in self.sections() {
            match runs.iter_mut().find(|(run, _)| *run == section.run) {
                Some((_, names)) => names.push(name),
                None => runs.push((&section.run, vec![name])),
            }
        }
        runs
    }

    fn sections(&self) -> impl Iterator<Item = (&str, &Section)> {
        SECTIONS
            .iter()
            .filter_map(|name| Some((*name, self.0.get(*name)?)))
    }

    /// The tables, in Markdown.
    fn tables(&self) -> String {
        let mut text = String::new();
        for (run, sections) in self.runs() {
            let _ = writeln!(text, "- Measured {run}: {}.", sections.join(", "));
        }
        text.push_str("\n| | answers a second | p50 ms | p99 ms | CPU µs an answer |\n|---|--:|--:|--:|--:|\n");
        for row in self.sections().flat_map(|(_, section)| &section.rows) {
            let cpu = row.cpu_us.map_or_else(String::new, |cpu| cpu.to_string());
            let _ = writeln!(
                text,
                "| {} | {:.0} | {:.2} | {:.2} | {cpu} |",
                row.what, row.rate, row.p50_ms, row.p99_ms,
            );
        }
        text.push_str("\n| | figure | bound | |\n|---|--:|--:|---|\n");
        for metric in self.sections().flat_map(|(_, section)| &section.metrics) {
            let kept = if metric.kept { "kept" } else { "**not kept**" };
            let _ = writeln!(
                text,
                "| {} | {:.2} | {} | {kept} |",
                metric.what, metric.value, metric.bound
            );
        }
        text
    }
}

fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

/// When, of which commit and on which machine this run is.
fn run() -> Result<String, Box<dyn Error>> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("an unnamed processor", |(_, name)| name);
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kib: f64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"))
        .ok_or("no memory")?
        .parse()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let output = |program: &str, arguments: &[&str]| -> Result<String, Box<dyn Error>> {
        let done = Command::new(program).args(arguments).output()?;
        Ok(String::from_utf8(done.stdout)?.trim().to_owned())
    };
    Ok(format!(
        "on {} at commit `{}` with {} processors ({model}), {:.0} GiB, Linux {}",
        output("date", &["+%-d %B %Y"])?,
        output("git", &["rev-parse", "--short=10", "HEAD"])?,
        std::thread::available_parallelism()?,
        kib / 1024.0 / 1024.0,
        // Its version and no more: what comes after names a build.
        kernel.split('.').take(2).collect::<Vec<_>>().join("."),
    ))
}
