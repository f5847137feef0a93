//! The results, as tables for the terminal and the documentation.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::load::Load;

/// A row: an operation of Patchbay or of a baseline.
struct Row {
    what: String,
    load: Load,
    /// The service's CPU time per response.
    cpu: Option<Duration>,
}

/// A row: a value with its limit.
struct Metric {
    what: String,
    value: String,
    bound: String,
    kept: bool,
}

/// The results of a run.
pub(crate) struct Report {
    machine: String,
    rows: Vec<Row>,
    figures: Vec<Metric>,
}

impl Report {
    /// Creates an empty report with the description of this machine and the program's size.
    ///
    /// # Errors
    /// If the program does not exist.
    pub(crate) fn new(program: &Path) -> Result<Self, Box<dyn Error>> {
        let mut report = Self {
            machine: machine()?,
            rows: Vec::new(),
            figures: Vec::new(),
        };
        let size = fs::metadata(program)
            .map_err(|error| format!("{}: {error}", program.display()))?
            .len() as f64
            / 1024.0
            / 1024.0;
        report.at_most("program, MiB", size, 25.0);
        Ok(report)
    }

    /// Adds the result of a load. `cpu` is `None` for a baseline.
    pub(crate) fn add(&mut self, what: &str, load: Load, cpu: Option<Duration>) {
        println!(
            "{what}: {:.0}/s, p50 {:?}, p99 {:?}",
            load.rate, load.p50, load.p99
        );
        self.rows.push(Row {
            what: what.to_owned(),
            load,
            cpu,
        });
    }

    /// Adds a value with its minimum.
    pub(crate) fn at_least(&mut self, what: &str, value: f64, bound: f64) {
        self.metric(what, value, format!("≥ {bound}"), value >= bound);
    }

    /// Adds a value with its maximum.
    pub(crate) fn at_most(&mut self, what: &str, value: f64, bound: f64) {
        self.metric(what, value, format!("≤ {bound}"), value <= bound);
    }

    fn metric(&mut self, what: &str, value: f64, bound: String, kept: bool) {
        println!("{what}: {value:.2} ({bound})");
        self.figures.push(Metric {
            what: what.to_owned(),
            value: format!("{value:.2}"),
            bound,
            kept,
        });
    }

    /// Returns the tables, in Markdown.
    fn tables(&self) -> String {
        let mut text =
            "| | answers a second | p50 ms | p99 ms | CPU µs an answer |\n|---|--:|--:|--:|--:|\n"
                .to_owned();
        for row in &self.rows {
            let cpu = row
                .cpu
                .map_or_else(String::new, |cpu| cpu.as_micros().to_string());
            let _ = writeln!(
                text,
                "| {} | {:.0} | {:.2} | {:.2} | {cpu} |",
                row.what,
                row.load.rate,
                row.load.p50.as_secs_f64() * 1e3,
                row.load.p99.as_secs_f64() * 1e3,
            );
        }
        text.push_str("\n| | figure | bound | |\n|---|--:|--:|---|\n");
        for figure in &self.figures {
            let kept = if figure.kept { "kept" } else { "**not kept**" };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {kept} |",
                figure.what, figure.value, figure.bound
            );
        }
        text
    }

    /// Prints the report.
    pub(crate) fn print(&self) {
        println!("\n{}\n\n{}", self.machine, self.tables());
    }

    /// Writes the report to a document, replacing that of an earlier run.
    ///
    /// # Errors
    /// If the document cannot be written, or lacks the markers.
    pub(crate) fn write(&self, document: &Path) -> Result<(), Box<dyn Error>> {
        const BEGIN: &str = "<!-- measured -->\n";
        const END: &str = "<!-- end -->";
        let text = fs::read_to_string(document)?;
        let (before, rest) = text.split_once(BEGIN).ok_or("no place for the tables")?;
        let (_, after) = rest.split_once(END).ok_or("no end of the tables")?;
        let (machine, tables) = (&self.machine, self.tables());
        let new = format!("{before}{BEGIN}\n{machine}\n\n{tables}\n{END}{after}");
        Ok(fs::write(document, new)?)
    }
}

/// Returns the description of the machine.
fn machine() -> Result<String, Box<dyn Error>> {
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
    let date = Command::new("date").arg("+%-d %B %Y").output()?;
    Ok(format!(
        "Measured on {}: {} processors ({model}), {:.0} GiB, Linux {}; the load tools, PostgreSQL \
         and the sandbox's Nango on the same.",
        String::from_utf8(date.stdout)?.trim(),
        std::thread::available_parallelism()?,
        kib / 1024.0 / 1024.0,
        // Only the kernel's version, because the rest identifies a build.
        kernel.split('.').take(2).collect::<Vec<_>>().join("."),
    ))
}
