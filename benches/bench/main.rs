//! Benchmarks the release program against baselines, in one run on one machine: the same SQL through pgbench, Nango
//! alone, and a handler that only authenticates its caller.
//!
//! `scripts/bench` runs it. Absolute numbers depend on the machine; the ratios compare Patchbay with its baselines.

mod baseline;
mod burst;
mod chart;
mod data;
mod endpoints;
mod load;
mod measure;
mod nango;
mod report;
mod service;
mod streams;
mod sweep;
mod webhooks;

use std::error::Error;
use std::path::PathBuf;

use dev_postgres::{DevPostgres, Durability};

use measure::Bench;
use report::Report;

/// The number of users in the database.
const USERS: u32 = 20_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let given = |flag: &str| arguments.iter().any(|argument| argument == flag);
    // `cargo test --benches` runs it without `--bench`, and must not measure.
    if !given("--bench") {
        return Ok(());
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("target/bench");
    std::fs::create_dir_all(&folder)?;
    let postgres = DevPostgres::start(&folder.join("postgres"), Durability::Durable).await?;
    let program = folder.join("patchbay");
    let seconds = if given("--quick") { 3 } else { 10 };
    let only = arguments
        .iter()
        .find_map(|argument| argument.strip_prefix("--only="));
    let mut report = Report::new(&program)?;
    let bench = Bench::start(&folder, &program, postgres.url(), USERS, seconds).await?;
    bench.measure(&mut report, only).await?;
    drop(bench);
    postgres.stop().await;
    report.print();
    if given("--write") {
        report.write(&root.join("docs"))?;
    }
    Ok(())
}
