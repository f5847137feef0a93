//! Where a return is sent on to.
