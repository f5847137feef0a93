//! What was measured, as a table to read and to keep.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::load::Load;

/// One line: something that Patchbay does, beside its floor.
struct Row {
    what: String,
    load: Load,
    /// The service's processor time for an answer.
    cpu: Option<Duration>,
}

/// One line: a figure with the bound it should keep.
struct Metric {
    what: String,
    value: String,
    bound: String,
    kept: bool,
}

/// All of a run.
pub(crate) struct Report {
    machine: String,
    rows: Vec<Row>,
    figures: Vec<Metric>,
}

impl Report {
    /// An empty one, with the description of this machine and this program's size in it.
    ///
    /// # Errors
    /// When the program is not there.
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

    /// Adds a load that the service, or a floor where `cpu` is not known, was under.
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

    /// Adds a figure that should be at least this.
    pub(crate) fn at_least(&mut self, what: &str, value: f64, bound: f64) {
        self.metric(what, value, format!("≥ {bound}"), value >= bound);
    }

    /// Adds a figure that should be at most this.
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

    /// The tables, in Markdown.
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

    /// Prints it.
    pub(crate) fn print(&self) {
        println!("\n{}\n\n{}", self.machine, self.tables());
    }

    /// Puts it into a document, in place of what an earlier run has put there.
    ///
    /// # Errors
    /// When the document cannot be written, or does not say where.
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

/// What this was measured on.
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
        // Its version and no more: what comes after names a build.
        kernel.split('.').take(2).collect::<Vec<_>>().join("."),
    ))
}
