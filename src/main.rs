//! The program: arguments in, exit code out. Everything else is in the library.

use std::process::ExitCode;

/// Batches are taken apart and written again in thousands of small pieces: with the system's allocator a fifth of the time.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What is free for a second goes back to the system, and a few arenas serve all threads: memory stays near what is in use.
#[unsafe(export_name = "_rjem_malloc_conf")]
static ALLOCATOR_SETTINGS: &[u8; 30] = b"narenas:4,dirty_decay_ms:1000\0";

fn main() -> ExitCode {
    tidegate::cli::run()
}
