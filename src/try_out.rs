//! The `sandbox` command.
