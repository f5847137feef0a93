//! Random schedules: whatever happens, in whatever order, the table and Nango agree in the end.
//!
//! `SCHEDULES` says how many (a few hundred without it), `SCHEDULES_SEED` repeats those of a
//! run that failed.

mod end;
mod run;
mod step;
mod world;

use std::cell::RefCell;
use std::fmt::Write;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;

use run::Run;
use step::Step;
use world::World;

/// How many schedules run where nobody asks for more.
const SCHEDULES: u32 = 240;

/// How many use one world; after them it remembers too much to be quick.
const PER_WORLD: u32 = 200;

/// How long a failing schedule is made smaller, in milliseconds.
const SHRINKING: u32 = 90_000;

/// The seed of the half that is the same in each run.
const ALWAYS: u64 = 1;

#[test]
fn whatever_happens_the_table_and_nango_agree_in_the_end() {
    let variable = |name| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let schedules = variable("SCHEDULES").map_or(SCHEDULES, |many| u32::try_from(many).unwrap());
    let random = Uuid::new_v4().as_u64_pair().0;
    let seed = variable("SCHEDULES_SEED").unwrap_or(random);
    std::thread::scope(|scope| {
        for seed in [ALWAYS, seed] {
            scope.spawn(move || explore(seed, schedules / 2));
        }
    });
}

/// Schedules that went wrong once, as small as they could be made.
mod found {
    use super::step::{Account, Fault, Step};
    use super::{Worlds, told};

    const CONNECT: Step = Step::Connect {
        slot: 0,
        account: Account::First,
    };
    const GRANT: Step = Step::Grant { url: 0 };

    fn holds(schedule: &[Step]) {
        let wrong = Worlds::default().follow(&super::runtime(), schedule);
        assert!(
            wrong.is_empty(),
            "{}",
            told(0, &wrong.join("\n  "), schedule)
        );
    }

    #[test]
    fn of_two_grants_in_the_same_instant_one_stays() {
        let both = Step::Both(GRANT.into(), GRANT.into());
        holds(&[CONNECT, both]);
    }

    #[test]
    fn a_grant_after_a_denial_of_the_same_reconnect_is_found_without_its_webhook() {
        let reconnect = Step::Reconnect {
            slot: 0,
            account: Account::Other,
        };
        let (denied, told) = (Step::Deny { url: 0 }, Step::Deliver { webhook: 1 });
        holds(&[CONNECT, GRANT, Step::Sweep, reconnect, denied, told, GRANT]);
    }

    #[test]
    fn what_works_again_after_a_denied_reconnect_is_connected() {
        let reconnect = Step::Reconnect {
            slot: 0,
            account: Account::First,
        };
        let check = || Step::Check { slot: 0 };
        holds(&[
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
    fn an_undecided_account_is_not_taken_because_its_reconnect_was_given_up() {
        let reconnect = |account| Step::Reconnect { slot: 0, account };
        let (other, first) = (reconnect(Account::Other), reconnect(Account::First));
        holds(&[
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
    fn what_is_revoked_while_its_new_grant_is_looked_at_is_found_out() {
        let reconnect = || Step::Reconnect {
            slot: 0,
            account: Account::First,
        };
        let look = || Step::Look { slot: 0 };
        let both = Step::Both(look().into(), Step::Revoke { slot: 0 }.into());
        let delivered = Step::Deliver { webhook: 0 };
        holds(&[
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
    fn a_dead_connection_no_longer_counts_as_failing() {
        holds(&[CONNECT, GRANT, Step::Sweep, Step::Revoke { slot: 0 }]);
    }
}

/// Runs this many schedules, one after the other.
fn explore(seed: u64, schedules: u32) {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: schedules,
        failure_persistence: None,
        max_shrink_time: SHRINKING,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let runtime = runtime();
    let worlds = RefCell::new(Worlds::default());
    let result = runner.run(&step::schedule(), |schedule| {
        let wrong = worlds.borrow_mut().follow(&runtime, &schedule);
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(TestCaseError::fail(wrong.join("\n  ")))
        }
    });
    match result {
        Ok(()) => println!("{schedules} schedules of seed {seed}: all is well"),
        Err(TestError::Fail(why, schedule)) => panic!("{}", told(seed, why.message(), &schedule)),
        Err(error) => panic!("{error}"),
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn told(seed: u64, why: &str, schedule: &[Step]) -> String {
    let mut text = format!("SCHEDULES_SEED={seed} finds\n  {why}\nafter\n");
    for step in schedule {
        let _ = writeln!(text, "  {step:?}");
    }
    text
}

/// The world at hand, and how many schedules it has seen.
#[derive(Default)]
struct Worlds(Option<(World, u32)>);

impl Worlds {
    /// A world in which something went wrong is not used again.
    fn follow(&mut self, runtime: &Runtime, schedule: &[Step]) -> Vec<String> {
        runtime.block_on(async {
            let (world, used) = match self.0.take() {
                Some(world) => world,
                None => (World::new().await, 0),
            };
            let wrong = Run::new(&world).await.follow(schedule).await;
            if wrong.is_empty() && used < PER_WORLD {
                world.clear().await;
                self.0 = Some((world, used + 1));
            }
            wrong
        })
    }
}
