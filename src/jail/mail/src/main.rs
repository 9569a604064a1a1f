//! `sendmail` inside a jail, and `bailiwick-mail serve` on the host.

use bailiwick_mail::{client, server};
use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

const NAME: &str = "bailiwick-mail";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let is_own = Path::new(&name).file_name() == Some(OsStr::new(NAME));
    let arguments: Vec<_> = arguments.collect();
    match arguments.first().and_then(|first| first.to_str()) {
        Some("serve") if is_own => server::main(&arguments[1..]).into(),
        Some("--version") => {
            let told = writeln!(std::io::stdout(), "{NAME} {}", env!("CARGO_PKG_VERSION"));
            if told.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        _ => client::main(&arguments).into(),
    }
}
