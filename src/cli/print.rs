//! Output of commands. A reader may close the pipe early (`patchbay openapi | head -1`): the command then still
//! completes.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

/// Prints one or more lines of a command's output.
///
/// # Errors
/// If the output cannot be written for a reason other than a closed pipe: a full disk, for example.
pub(crate) fn print_line(text: impl Display) -> io::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Prints a line for the terminal's user to stderr, apart from the command's output.
pub(crate) fn print_note(text: impl Display) {
    // A failed write cannot be reported anywhere.
    let _ = writeln!(io::stderr(), "{text}");
}
