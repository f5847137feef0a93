//! The program, which is the library's [`patchbay::cli`].

use std::process::ExitCode;

/// Faster than the system's for the many small pieces that a request is made of (docs/PERFORMANCE.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    patchbay::cli::main()
}
