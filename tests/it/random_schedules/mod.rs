//! Random schedules: after any events in any order, the database and Nango agree in the end.
//!
//! `SCHEDULES` sets their number. `SCHEDULES_SEED` repeats those of a failed run.

mod environment;
mod run;
mod settle;
mod step;

use std::cell::RefCell;
use std::fmt::Write;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;

use environment::Environment;
use run::Run;
use step::Step;

/// The default number of schedules.
const SCHEDULES: u32 = 240;

/// The number of schedules per environment. Its stored events slow down later ones.
const SCHEDULES_PER_ENVIRONMENT: u32 = 200;

/// How long a failing schedule is shrunk, in milliseconds.
const MAX_SHRINK_STEPS: u32 = 90_000;

/// The seed of the half of the schedules that is the same in each run.
const REGRESSIONS: u64 = 1;

#[test]
fn random_schedules_converge_with_nango() {
    let variable = |name| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let schedules = variable("SCHEDULES").map_or(SCHEDULES, |many| u32::try_from(many).unwrap());
    let random = Uuid::new_v4().as_u64_pair().0;
    let seed = variable("SCHEDULES_SEED").unwrap_or(random);
    std::thread::scope(|scope| {
        for seed in [REGRESSIONS, seed] {
            scope.spawn(move || explore(seed, schedules / 2));
        }
    });
}

/// Schedules that failed once, shrunk.
mod found {
    use super::step::{Account, Fault, Step};
    use super::{Environments, render_schedule};

    const CONNECT: Step = Step::Connect {
        slot: 0,
        account: Account::First,
    };
    const GRANT: Step = Step::Grant { url: 0 };

    fn check_schedule(schedule: &[Step]) {
        let violations = Environments::default().follow(&super::runtime(), schedule);
        assert!(
            violations.is_empty(),
            "{}",
            render_schedule(0, &violations.join("\n  "), schedule)
        );
    }

    #[test]
    fn simultaneous_grants_keep_one_connection() {
        let both = Step::Both(GRANT.into(), GRANT.into());
        check_schedule(&[CONNECT, both]);
    }

    #[test]
    fn grant_after_denied_reconnect_is_found_without_webhook() {
        let reconnect = Step::Reconnect {
            slot: 0,
            account: Account::Other,
        };
        let (denied, reported) = (Step::Deny { url: 0 }, Step::Deliver { webhook: 1 });
        check_schedule(&[
            CONNECT,
            GRANT,
            Step::Sweep,
            reconnect,
            denied,
            reported,
            GRANT,
        ]);
    }

    #[test]
    fn connection_recovers_after_denied_reconnect() {
        let reconnect = Step::Reconnect {
            slot: 0,
            account: Account::First,
        };
        let check = || Step::Check { slot: 0 };
        check_schedule(&[
            CONNECT,
            GRANT,
            Step::Sweep,
            Step::Fault(Fault::RefuseRefresh),
            check(),
            Step::Pass { minutes: 90 },
            check(),
            reconnect,
            Step::Deny { url: 0 },
            Step::Deliver { webhook: 3 },
        ]);
    }

    #[test]
    fn abandoned_reconnect_does_not_accept_pending_account() {
        let reconnect = |account| Step::Reconnect { slot: 0, account };
        let (other, first) = (reconnect(Account::Other), reconnect(Account::First));
        check_schedule(&[
            CONNECT,
            GRANT,
            Step::Sweep,
            other,
            GRANT,
            Step::Sweep,
            first,
        ]);
    }

    #[test]
    fn revocation_during_grant_poll_is_detected() {
        let reconnect = || Step::Reconnect {
            slot: 0,
            account: Account::First,
        };
        let look = || Step::Look { slot: 0 };
        let both = Step::Both(look().into(), Step::Revoke { slot: 0 }.into());
        let delivered = Step::Deliver { webhook: 0 };
        check_schedule(&[
            CONNECT,
            GRANT,
            delivered,
            reconnect(),
            reconnect(),
            look(),
            GRANT,
            both,
        ]);
    }

    #[test]
    fn dead_connection_clears_failing_since() {
        check_schedule(&[CONNECT, GRANT, Step::Sweep, Step::Revoke { slot: 0 }]);
    }
}

/// Runs this many schedules, one after the other.
fn explore(seed: u64, schedules: u32) {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: schedules,
        failure_persistence: None,
        max_shrink_time: MAX_SHRINK_STEPS,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let runtime = runtime();
    let environments = RefCell::new(Environments::default());
    let result = runner.run(&step::schedule(), |schedule| {
        let violations = environments.borrow_mut().follow(&runtime, &schedule);
        if violations.is_empty() {
            Ok(())
        } else {
            Err(TestCaseError::fail(violations.join("\n  ")))
        }
    });
    match result {
        Ok(()) => println!("{schedules} schedules of seed {seed}: all is well"),
        Err(TestError::Fail(why, schedule)) => {
            panic!("{}", render_schedule(seed, why.message(), &schedule))
        }
        Err(error) => panic!("{error}"),
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn render_schedule(seed: u64, why: &str, schedule: &[Step]) -> String {
    let mut text = format!("SCHEDULES_SEED={seed} finds\n  {why}\nafter\n");
    for step in schedule {
        let _ = writeln!(text, "  {step:?}");
    }
    text
}

/// The current environment and the number of its schedules.
#[derive(Default)]
struct Environments(Option<(Environment, u32)>);

impl Environments {
    /// Follows a schedule. An environment with a failure is not reused.
    fn follow(&mut self, runtime: &Runtime, schedule: &[Step]) -> Vec<String> {
        runtime.block_on(async {
            let (environment, used) = match self.0.take() {
                Some(environment) => environment,
                None => (Environment::new().await, 0),
            };
            let violations = Run::new(&environment).await.follow(schedule).await;
            if violations.is_empty() && used < SCHEDULES_PER_ENVIRONMENT {
                environment.clear().await;
                self.0 = Some((environment, used + 1));
            }
            violations
        })
    }
}
