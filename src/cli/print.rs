//! What commands print. Whoever reads it may leave before its end (`patchbay openapi | head -1`): that ends no
//! command, and what it was to do is done.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

/// Prints a line, or several, of what a command was asked for.
///
/// # Errors
/// When it cannot be written for another reason than that nobody reads any more: a full disk, for example.
pub(crate) fn print_line(text: impl Display) -> io::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Prints a line for whoever is in front of it, beside what was asked for.
pub(crate) fn print_note(text: impl Display) {
    // Were it not written, there would be no place to say so.
    let _ = writeln!(io::stderr(), "{text}");
}
