//! What an operator types and reads: the server's flags and log, and the two tools.
//!
//! `flags` is what was typed, `config` what it means once checked, `logging` how the server
//! speaks. `ctl` and `utl` are the commands of `quoratectl` and `quorateutl`. Nothing here knows
//! how a member works: the server's `main` takes a `Config` and builds one.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the command line is the outermost shell: it runs in a real process only"
)]

mod auth_token;
pub mod config;
pub mod ctl;
pub mod flags;
mod joining;
pub mod logging;
pub mod serve;
pub mod utl;

use std::ffi::OsString;

/// Why the process ends before it served: what it prints, and its exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    pub code: u8,
    pub out: String,
    pub err: String,
}

impl Exit {
    pub fn print(text: impl Into<String>) -> Exit {
        Exit { code: 0, out: text.into(), err: String::new() }
    }
    pub fn fail(code: u8, text: impl Into<String>) -> Exit {
        Exit { code, out: String::new(), err: text.into() }
    }

    /// Prints what there is to print and gives the process its code.
    pub fn finish(self) -> std::process::ExitCode {
        use std::io::Write as _;
        // A closed pipe is the reader's choice; the code still tells how it went.
        let _ = std::io::stdout().write_all(self.out.as_bytes());
        let _ = std::io::stderr().write_all(self.err.as_bytes());
        std::process::ExitCode::from(self.code)
    }
}

/// The server's configuration from its arguments (without the program's name) and environment,
/// and what should be logged as a warning once there is a log.
pub fn server_config(
    args: impl IntoIterator<Item = OsString>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(config::Config, Vec<String>), Exit> {
    let typed = flags::parse(args, env)?;
    let mut warnings = typed.warnings.clone();
    let config = config::Config::new(&typed, &mut warnings)
        .map_err(|error| Exit::fail(1, format!("quorate: {error}\n")))?;
    Ok((config, warnings))
}
