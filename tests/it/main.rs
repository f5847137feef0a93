//! Every integration test, in one binary: against a real PostgreSQL and the
//! sandbox's Nango over real HTTP.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(missing_docs, reason = "tests are named for what they show")]

mod clock;
