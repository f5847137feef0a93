//! Ten times the usual load for some seconds: what is shed, whether a webhook is lost, and how soon requests are as fast as before.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use reqwest::{Client, StatusCode};
use sqlx::{Connection, PgConnection};
use tokio::sync::{Semaphore, mpsc};

use crate::data;
use crate::load::Load;
use crate::measure::{API, Bench, CONNECTING};
use crate::report::Report;
use crate::webhooks::Webhook;

/// The usual load in a second. Ten times as much is more than two processors do that also run the load.
const READS: usize = 500;
const WEBHOOKS: usize = 25;
const TIMES: usize = 10;
/// The seconds of the usual load, of the burst, and of the usual load after it.
const BEFORE: usize = 8;
const BURST: usize = 10;
const AFTER: usize = 15;
/// How many requests may wait for an answer: more are not sent, as a balancer would refuse them.
const MAX_WAITING: usize = 4_000;
const TICK: Duration = Duration::from_millis(10);
const TICKS: usize = 100;

/// A read that was answered, or not.
struct Sample {
    /// The second in which it was sent.
    second: usize,
    took: Duration,
    status: Option<StatusCode>,
}

impl Bench {
    pub(crate) async fn burst(&self, report: &mut Report) -> Result<(), Box<dyn Error>> {
        let installation = self.installation().await?;
        let count = WEBHOOKS * (BEFORE + BURST * TIMES + AFTER);
        let webhooks: Vec<Webhook> = futures::stream::iter(0..u32::try_from(count)?)
            .map(|n| self.granted(CONNECTING + 1 + n % CONNECTING, installation))
            .buffer_unordered(8)
            .collect::<Vec<_>>()
            .await
            .into_iter()
            .collect::<Result<_, _>>()?;
        let samples = self.send_all(&webhooks).await?;
        let lost = self.not_connected(&webhooks).await?;
        report_samples(report, &samples)?;
        report.at_most("webhooks lost in the burst", lost as f64, 0.0);
        Ok(())
    }

    /// Sends the load, second after second. Returns what became of the reads, after the last webhook has been delivered.
    async fn send_all(&self, webhooks: &[Webhook]) -> Result<Vec<Sample>, Box<dyn Error>> {
        let client = Client::builder().timeout(Duration::from_secs(10)).build()?;
        let tokens: Vec<String> = (1..=1000)
            .map(|user| data::token(&format!("user-{user}")))
            .collect::<Result<_, _>>()?;
        let url = format!("{}{API}/connections", self.service.url);
        let places = Arc::new(Semaphore::new(MAX_WAITING));
        let (done, mut samples) = mpsc::unbounded_channel();
        let mut webhooks = webhooks.iter();
        let mut tokens = tokens.iter().cycle();
        let mut delivering = tokio::task::JoinSet::new();
        let started = Instant::now();
        for second in 0..BEFORE + BURST + AFTER {
            let is_burst = (BEFORE..BEFORE + BURST).contains(&second);
            let times = if is_burst { TIMES } else { 1 };
            for tick in 0..TICKS {
                for _ in due(READS * times, tick) {
                    let token = tokens.next().ok_or("no tokens")?;
                    let request = client.get(&url).bearer_auth(token);
                    let (places, done) = (Arc::clone(&places), done.clone());
                    tokio::spawn(async move {
                        let _ = done.send(read(second, request, &places).await);
                    });
                }
                for webhook in due(WEBHOOKS * times, tick).map_while(|_| webhooks.next()) {
                    let (webhook, client) = (webhook.clone(), client.clone());
                    delivering.spawn(async move { webhook.deliver(&client).await });
                }
                let next = TICK * u32::try_from(second * TICKS + tick + 1)?;
                tokio::time::sleep(next.saturating_sub(started.elapsed())).await;
            }
        }
        drop(done);
        let mut all = Vec::new();
        while let Some(sample) = samples.recv().await {
            all.push(sample);
        }
        delivering.join_all().await;
        Ok(all)
    }

    /// Returns how many of the webhooks' connections are not connected.
    async fn not_connected(&self, webhooks: &[Webhook]) -> Result<i64, Box<dyn Error>> {
        let ids: Vec<_> = webhooks.iter().map(|webhook| webhook.connection).collect();
        let mut sql = PgConnection::connect(&self.database).await?;
        let lost = sqlx::query_scalar(
            "select count(*) from user_connector_connection where id = any($1) and status <> 'connected'",
        )
        .bind(ids)
        .fetch_one(&mut sql)
        .await?;
        sql.close().await?;
        Ok(lost)
    }
}

/// The share of a second's requests that is due in one of its ticks.
fn due(in_a_second: usize, tick: usize) -> std::ops::Range<usize> {
    in_a_second * tick / TICKS..in_a_second * (tick + 1) / TICKS
}

async fn read(second: usize, request: reqwest::RequestBuilder, places: &Semaphore) -> Sample {
    let since = Instant::now();
    let Ok(_place) = places.try_acquire() else {
        return Sample {
            second,
            took: Duration::ZERO,
            status: None,
        };
    };
    let status = match request.send().await {
        Ok(answer) => {
            let status = answer.status();
            answer.bytes().await.ok().map(|_| status)
        }
        Err(_) => None,
    };
    Sample {
        second,
        took: since.elapsed(),
        status,
    }
}

fn report_samples(report: &mut Report, samples: &[Sample]) -> Result<(), Box<dyn Error>> {
    let ok = Some(StatusCode::OK);
    let in_seconds = |seconds: std::ops::Range<usize>, status| {
        let length = seconds.len();
        let of_these = samples
            .iter()
            .filter(move |it| seconds.contains(&it.second));
        let times = of_these.filter(|it| it.status == status).map(|it| it.took);
        load(times.collect(), length)
    };
    let before = in_seconds(1..BEFORE, ok).ok_or("no list was answered before the burst")?;
    report.add("usual load of lists and webhooks: a list", before, None);
    let burst = BEFORE..BEFORE + BURST;
    let what = format!("{TIMES} times as many: a list that was answered");
    if let Some(answered) = in_seconds(burst.clone(), ok) {
        report.add(&what, answered, None);
    }
    if let Some(shed) = in_seconds(burst.clone(), Some(StatusCode::SERVICE_UNAVAILABLE)) {
        let what = format!("{TIMES} times as many: a list that was shed");
        report.add(&what, shed, None);
    }
    let unsent = samples.iter().filter(|it| it.status.is_none()).count();
    println!("{unsent} lists were not sent or not answered");
    let others = [None, ok, Some(StatusCode::SERVICE_UNAVAILABLE)];
    let others = samples.iter().filter(|it| !others.contains(&it.status));
    let count = others.count() as f64;
    report.at_most(
        "answers to lists in the burst other than 200 and 503",
        count,
        0.0,
    );
    let p99 = |second: usize| in_seconds(second..second + 1, ok).map(|load| load.p99);
    let after = BEFORE + BURST..BEFORE + BURST + AFTER;
    for seconds in [1..BEFORE, after.clone()] {
        let all: Vec<_> = seconds.filter_map(p99).collect();
        println!("p99 of each second: {all:.0?}");
    }
    let slowest = (1..BEFORE).filter_map(p99).max().unwrap_or_default();
    let usual = slowest.mul_f64(2.0).max(Duration::from_millis(20));
    let is_usual = |second: &usize| {
        let of_second = samples.iter().filter(|it| it.second == *second);
        let all_answered = of_second.clone().all(|it| it.status == ok);
        all_answered && p99(*second).is_some_and(|p99| p99 <= usual)
    };
    let slow = after.clone().rev().find(|second| !is_usual(second));
    let seconds = slow.map_or(0, |second| second + 1 - after.start);
    report.at_most(
        "seconds after the burst until lists are as usual",
        seconds as f64,
        5.0,
    );
    Ok(())
}

/// `None` without any.
fn load(mut times: Vec<Duration>, seconds: usize) -> Option<Load> {
    times.sort_unstable();
    let at = |share: usize| {
        times
            .get(times.len().checked_sub(1)? * share / 100)
            .copied()
    };
    Some(Load {
        rate: times.len() as f64 / seconds as f64,
        p50: at(50)?,
        p99: at(99)?,
        answers: times.len() as f64,
    })
}
