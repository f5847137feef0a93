//! Hours of mixed load in minutes: users, readers, workflows and guests at two replicas of the release
//! program, while now this is wrong with Nango and now that. Afterwards nothing is lost or left behind,
//! and memory, handles, tasks and connections are where they were before.
//!
//! `scripts/soak` runs it, with the number of requests.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed run")]

#[path = "../../tests/it/invariants.rs"]
mod invariants;
#[path = "../../tests/it/crash/load.rs"]
mod load;
#[path = "../bench/service.rs"]
mod service;

mod figures;
mod readers;
mod stage;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use figures::Figures;
use load::{Counts, Scene, Told, User};
use readers::{Guest, Reader, Seen};
use stage::Stage;

/// How many users connect and disconnect, read all the time, and come and go, at each replica.
const USERS: usize = 12;
const READERS: usize = 6;
const GUESTS: usize = 1;

/// The share of the requests after which the figures are taken as those of the beginning.
const WARM: u64 = 10;

/// How long the replicas rest before the figures are taken, and how long they may take to come to rest.
const REST: Duration = Duration::from_secs(15);
const AT_MOST: Duration = Duration::from_secs(150);

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(requests) = arguments.find_map(|argument| argument.parse::<u64>().ok()) else {
        // `cargo test --benches` runs it, too: nothing is soaked there.
        return;
    };
    let stage = Stage::start().await;
    let mut wrong = Vec::new();
    println!("{:>10} requests to warm up", requests / WARM);
    wrong.extend(run(&stage, requests / WARM).await);
    tokio::time::sleep(REST).await;
    let before = stage.figures().await;
    before.print("after the warm-up");
    println!("{requests:>10} requests");
    wrong.extend(run(&stage, requests).await);
    wrong.extend(come_to_rest(&stage, &before).await);
    stage.stop().await;
    for wrong in wrong.iter().take(50) {
        println!("WRONG: {wrong}");
    }
    println!("{} violations", wrong.len());
    std::process::exit(i32::from(!wrong.is_empty()));
}

/// So many requests, and what is wrong after them.
async fn run(stage: &Stage, requests: u64) -> Vec<String> {
    let stop = CancellationToken::new();
    let scenes: Vec<Scene> = stage.urls().map(|url| scene(stage, url, &stop)).collect();
    let seen = Seen::default();
    let round = uuid::Uuid::new_v4().simple().to_string();
    let (mut users, mut readers, mut guests) = (Vec::new(), Vec::new(), Vec::new());
    for (replica, scene) in scenes.iter().enumerate() {
        let names: Vec<String> = (0..USERS)
            .map(|number| format!("user-{round}-{replica}-{number}"))
            .collect();
        for name in &names {
            users.push(User::new(scene, stage.token(name).await).live());
        }
        for number in 0..READERS {
            let name = names[number % names.len()].clone();
            let token = stage.token(&name).await;
            readers.push(
                Reader::new(&stage.client, stage.urls().collect(), name, token, &seen).live(&stop),
            );
        }
        for number in 0..GUESTS {
            guests.push(
                Guest {
                    stage,
                    url: scene.url.clone(),
                    seen: &seen,
                    name: format!("guest-{round}-{replica}-{number}"),
                }
                .live(&stop),
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
        stage.change_weather(&stop)
    );
    let rate = requests as f64 / began.elapsed().as_secs_f64();
    println!("           {rate:.0} requests a second");
    seen.print();
    let mut wrong = seen.wrong();
    for scene in scenes {
        print_counts(&scene.counts);
        let told = std::mem::take(&mut *scene.told.lock().unwrap());
        wrong.extend(scene.settle(&told, &mut stage.sql().await).await);
        println!(
            "           held against what is there now: {} attempts, {} connections, {} answers to keys",
            told.begun.len(),
            told.expected.len(),
            told.keyed.len()
        );
    }
    wrong.extend(stage.violations().await);
    wrong
}

/// Stops everybody when there were so many requests.
async fn enough(requests: u64, scenes: &[Scene], seen: &Seen, stop: &CancellationToken) {
    let began = Instant::now();
    let mut told = 1;
    loop {
        let of_users: u64 = scenes
            .iter()
            .map(|scene| scene.counts.requests.load(Ordering::Relaxed))
            .sum();
        let done = of_users + seen.requests.load(Ordering::Relaxed);
        if done * 10 >= requests * told {
            println!("{done:>10} after {:.0?}", began.elapsed());
            told += 1;
        }
        if done >= requests {
            stop.cancel();
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn scene(stage: &Stage, url: &str, stop: &CancellationToken) -> Scene {
    Scene {
        url: url.to_owned(),
        client: stage.client.clone(),
        counts: Counts::default(),
        told: Told::default().into(),
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

/// Waits until all is where it was, and says what is not.
async fn come_to_rest(stage: &Stage, before: &Figures) -> Vec<String> {
    let since = Instant::now();
    tokio::time::sleep(REST).await;
    loop {
        let now = stage.figures().await;
        let wrong = now.beyond(before);
        if wrong.is_empty() || since.elapsed() > AT_MOST {
            now.print(&format!("{:.0?} after the end", since.elapsed()));
            return wrong;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}
