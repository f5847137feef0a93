//! Many users connect while Nango's rate limit is low and a sweep is due.

use std::sync::Arc;

use futures::future::join_all;
use patchbay::clock::Clock;
use tokio::task::JoinHandle;

use super::*;
use crate::test_app::WITH_ACCOUNTS;

/// The time in which all users start to connect, in seconds.
const SECONDS: f64 = 40.0;

/// Advances the clock at up to this multiple of real time, until it is dropped.
struct FastClock(JoinHandle<()>);

impl FastClock {
    fn start(clock: &Clock, speed: f64) -> Self {
        let clock = clock.clone();
        Self(tokio::spawn(async move {
            // Equal steps: on a busy machine, the clock slows down with the service.
            let step = Duration::from_millis(10);
            loop {
                tokio::time::sleep(step).await;
                clock.advance(TimeDelta::from_std(step.mul_f64(speed)).unwrap());
            }
        }))
    }
}

impl Drop for FastClock {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Connects this many users within [`SECONDS`] over two replicas, at this number of calls a minute, while sweeps run
/// continuously. Returns the number of calls of the sweeps.
async fn connect_all(users: usize, limit: u32, speed: f64) -> usize {
    let app = TestApp::build(&[(WITH_ACCOUNTS, "1")], |setup| {
        setup.rate_limit = limit;
        setup.webhook_retries = vec![
            Duration::from_secs(3).div_f64(speed),
            Duration::from_secs(9).div_f64(speed),
        ];
    })
    .await;
    let other = app.replica(&[]).await;
    app.faults(json!({ "consent": "allow" })).await;
    let service = app.service().await;
    let sweeping = {
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            let stop = CancellationToken::new();
            loop {
                drop(service.sweeper.sweep(IMMEDIATE_SWEEP, &stop).await);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    };
    let _clock = FastClock::start(&app.clock, speed);
    let started = app.clock.now();
    let connected = join_all((0..users).map(async |n| {
        let share = f64::from(u32::try_from(n).unwrap()) / f64::from(u32::try_from(users).unwrap());
        tokio::time::sleep(Duration::from_secs_f64(share * SECONDS / speed)).await;
        let user = app.user(&format!("user-{n}")).await;
        let user = if n % 2 == 0 { user } else { user.at(&other) };
        let (code, response) = user.call(Method::POST, "/gmail/connect", None).await;
        assert_eq!(code, StatusCode::OK, "user {n}: {response}");
        app.popup(text(&response, "oauth_url")).await;
        let path = format!("/connections/{}?wait=25", text(&response, "connection_id"));
        loop {
            let (code, connection) = user.call(Method::GET, &path, None).await;
            if connection["status"] == "connected" {
                return app.clock.now() - started;
            }
            if code != StatusCode::OK {
                // An overloaded replica sheds requests, and their clients repeat them.
                assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE, "{connection}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }))
    .await;
    sweeping.abort();
    let last = connected.iter().max().unwrap();
    // By the end of the second minute, a poll has connected those whose webhook was missed.
    assert!(*last < TimeDelta::seconds(130), "{last}");
    let calls = app.control("requests", Method::GET, Value::Null).await;
    let calls = calls.as_array().unwrap();
    let sessions = calls.iter().filter(|call| call["method"] == "POST");
    let refused = sessions.filter(|call| call["status"] == 429).count();
    println!(
        "{users} users at {limit} calls a minute: {} calls, {refused} sessions refused at first, all connected after {last}",
        calls.len()
    );
    let is_page = |call: &&Value| text(call, "query").contains("limit=1000");
    calls.iter().filter(is_page).count()
}

#[tokio::test]
async fn hundred_users_connect_at_200_calls_a_minute() {
    let sweeps = connect_all(100, 200, 4.0).await;
    assert!(sweeps > 0, "the sweep has its share");
}

#[tokio::test]
#[ignore = "takes two minutes: the same in real time, and for a thousand users at 2,000 calls a minute"]
async fn thousand_users_connect_at_2000_calls_a_minute() {
    connect_all(100, 200, 1.0).await;
    connect_all(1000, 2000, 1.0).await;
}

#[tokio::test]
async fn connect_waits_for_the_next_minute() {
    const LIMIT: u32 = 20;
    let app = TestApp::build(&[], |nango| nango.rate_limit = LIMIT).await;
    let ada = app.user("ada").await;
    ada.get("/gmail").await;
    for _ in 0..LIMIT {
        app.nango(Method::GET, "/connections?limit=1").await;
    }
    // Longer than a user waits.
    let (refused, problem) = ada.call(Method::POST, "/gmail/connect", None).await;
    assert_eq!(refused, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(problem["code"], "nango_rate_limited");
    assert!(problem["retry_after"].as_u64().unwrap() > 50, "{problem}");
    app.advance(TimeDelta::seconds(54));
    let _clock = FastClock::start(&app.clock, 10.0);
    let (status, started) = ada.call(Method::POST, "/gmail/connect", None).await;
    assert_eq!(status, StatusCode::OK, "{started}");
}
