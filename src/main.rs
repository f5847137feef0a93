//! The program, which is the library's [`patchbay::command`].

use std::process::ExitCode;

fn main() -> ExitCode {
    patchbay::command::main()
}
