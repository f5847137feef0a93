//! What every page lets others do.
