//! The binary. It runs [`patchbay::cli`] of the library.

use std::process::ExitCode;

/// Faster than the system allocator for the many small allocations of a request
/// (docs/decisions/0007-allocator-and-memory.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    patchbay::cli::main()
}
