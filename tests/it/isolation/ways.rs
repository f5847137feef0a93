//! The way to an answer.
