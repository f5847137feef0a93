//! A soak test: hours of mixed load in minutes, by users, readers, workflows and guests at two replicas of the release
//! program, with changing faults of Nango. Afterwards nothing is lost or left behind, and memory, handles, tasks and
//! connections have their earlier levels.
//!
//! `scripts/soak` runs it with the number of requests.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed run")]

#[path = "../../tests/it/invariants.rs"]
mod invariants;
#[path = "../../tests/it/crash/load.rs"]
mod load;
#[path = "../bench/service.rs"]
mod service;

mod measurements;
mod readers;
mod setup;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use load::{Acknowledged, Counts, Environment, User};
use measurements::Measurements;
use readers::{Guest, ReadStats, Reader};
use setup::Setup;

/// The number of users who connect and disconnect, of readers, and of guests, at each replica.
const USERS: usize = 12;
const READERS: usize = 6;
const GUESTS: usize = 1;

/// The share of the requests, as a divisor, after which the initial measurements are taken.
const WARM_UP: u64 = 10;

/// How long the replicas are idle before a measurement, and how long they may take to settle.
const SETTLE_TIME: Duration = Duration::from_secs(15);
const MAX_DURATION: Duration = Duration::from_secs(150);

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(requests) = arguments.find_map(|argument| argument.parse::<u64>().ok()) else {
        // `cargo test --benches` runs it without a number of requests.
        return;
    };
    let setup = Setup::start().await;
    let mut failures = Vec::new();
    println!("{:>10} requests to warm up", requests / WARM_UP);
    failures.extend(run(&setup, requests / WARM_UP).await);
    tokio::time::sleep(SETTLE_TIME).await;
    let before = setup.measurements().await;
    before.print("after the warm-up");
    println!("{requests:>10} requests");
    failures.extend(run(&setup, requests).await);
    failures.extend(settle(&setup, &before).await);
    setup.stop().await;
    for failures in failures.iter().take(50) {
        println!("WRONG: {failures}");
    }
    println!("{} violations", failures.len());
    std::process::exit(i32::from(!failures.is_empty()));
}

/// Runs this many requests. Returns the violations.
async fn run(setup: &Setup, requests: u64) -> Vec<String> {
    let stop = CancellationToken::new();
    let scenes: Vec<Environment> = setup
        .urls()
        .map(|url| environment(setup, url, &stop))
        .collect();
    let seen = ReadStats::default();
    let round = uuid::Uuid::new_v4().simple().to_string();
    let (mut users, mut readers, mut guests) = (Vec::new(), Vec::new(), Vec::new());
    for (replica, scene) in scenes.iter().enumerate() {
        let names: Vec<String> = (0..USERS)
            .map(|number| format!("user-{round}-{replica}-{number}"))
            .collect();
        for name in &names {
            users.push(User::new(scene, setup.token(name).await).run());
        }
        for number in 0..READERS {
            let name = names[number % names.len()].clone();
            let token = setup.token(&name).await;
            readers.push(
                Reader::new(&setup.client, setup.urls().collect(), name, token, &seen).run(&stop),
            );
        }
        for number in 0..GUESTS {
            guests.push(
                Guest {
                    stage: setup,
                    url: scene.url.clone(),
                    seen: &seen,
                    name: format!("guest-{round}-{replica}-{number}"),
                }
                .run(&stop),
            );
        }
    }
    let began = Instant::now();
    let enough = enough(requests, &scenes, &seen, &stop);
    tokio::join!(
        enough,
        join_all(users),
        join_all(readers),
        join_all(guests),
        setup.change_faults(&stop)
    );
    let rate = requests as f64 / began.elapsed().as_secs_f64();
    println!("           {rate:.0} requests a second");
    seen.print();
    let mut failures = seen.wrong();
    for scene in scenes {
        print_counts(&scene.counts);
        let acknowledged = std::mem::take(&mut *scene.acknowledged.lock().unwrap());
        failures.extend(scene.settle(&acknowledged, &mut setup.sql().await).await);
        print_compared(&acknowledged);
    }
    failures.extend(setup.violations().await);
    failures
}

fn print_compared(acknowledged: &Acknowledged) {
    println!(
        "           compared with the final state: {} attempts, {} connections, {} answers to keys",
        acknowledged.started.len(),
        acknowledged.expected.len(),
        acknowledged.keyed.len()
    );
}

/// Stops the load after this many requests.
async fn enough(requests: u64, scenes: &[Environment], seen: &ReadStats, stop: &CancellationToken) {
    let began = Instant::now();
    let mut acknowledged = 1;
    loop {
        let of_users: u64 = scenes
            .iter()
            .map(|environment| environment.counts.requests.load(Ordering::Relaxed))
            .sum();
        let done = of_users + seen.requests.load(Ordering::Relaxed);
        if done * 10 >= requests * acknowledged {
            println!("{done:>10} after {:.0?}", began.elapsed());
            acknowledged += 1;
        }
        if done >= requests {
            stop.cancel();
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn environment(setup: &Setup, url: &str, stop: &CancellationToken) -> Environment {
    Environment {
        url: url.to_owned(),
        client: setup.client.clone(),
        counts: Counts::default(),
        acknowledged: Acknowledged::default().into(),
        stop: stop.clone(),
    }
}

fn print_counts(counts: &Counts) {
    let number = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    println!(
        "           users of a replica: {} requests, {} answered, {} grants, {} denials and refusals, {} disconnects",
        number(&counts.requests),
        number(&counts.answered),
        number(&counts.grants),
        number(&counts.denials),
        number(&counts.disconnects),
    );
}

/// Waits until all measurements have their earlier levels. Returns those that have not.
async fn settle(setup: &Setup, before: &Measurements) -> Vec<String> {
    let since = Instant::now();
    tokio::time::sleep(SETTLE_TIME).await;
    loop {
        let now = setup.measurements().await;
        let failures = now.beyond(before);
        if failures.is_empty() || since.elapsed() > MAX_DURATION {
            now.print(&format!("{:.0?} after the end", since.elapsed()));
            return failures;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}
