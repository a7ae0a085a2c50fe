//! The server.

use quorate::cli::{self, Exit};
use std::process::ExitCode;

// Measured: 6 to 15 per cent more requests per second than glibc's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let (config, warnings) =
        match cli::server_config(std::env::args_os().skip(1), std::env::vars_os()) {
            Ok(checked) => checked,
            Err(exit) => return exit.finish(),
        };
    cli::logging::install(config.log_level);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    match cli::serve::serve(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => Exit::fail(1, format!("quorate: {error}\n")).finish(),
    }
}
