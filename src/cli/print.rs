//! Output of commands. A command completes even if a reader closes the pipe early (`patchbay openapi | head -1`).

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

/// Prints one or more lines of a command's output.
///
/// # Errors
/// Reports a failed write, for example to a full disk. A closed pipe is not an error.
pub(crate) fn print_line(text: impl Display) -> io::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Prints a note for a person to stderr, so that it is no part of the command's output.
pub(crate) fn print_note(text: impl Display) {
    // A failed write cannot be reported anywhere.
    let _ = writeln!(io::stderr(), "{text}");
}
