//! `bailiwick-lend NAME FILE CONNECTIONS`: lends one socket of the host to one tenant.
//!
//! The warden starts it on the host as the tenant's host user, in the tenant's control groups. Its root is the directory of the
//! host's socket. It inherits a listening socket as descriptor 3 and the file for its counts as descriptor 4. For each
//! connection it connects to `FILE` in its current directory, and copies bytes both ways. NAME is for listings of processes.
//!
//! Danger: the tenant chooses every byte and every moment. Descriptors that come with bytes must be refused, so this program
//! only reads. It opens no file: its filter of system calls ([`bailiwick_plan::seccomp::filter_of_lending`]) has no such call.

mod copy;
mod serve;

use bailiwick_sys::{credential, process, seccomp};
use serve::Server;
use std::io;
use std::process::ExitCode;

/// Its name in listings of processes.
const NAME: &std::ffi::CStr = c"bailiwick-lend";
/// The listening socket.
const LISTENER: i32 = 3;
/// The file for the counts.
const COUNTS: i32 = 4;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(2);
    let (Some(file), Some(Ok(most))) = (arguments.next(), arguments.next().map(|text| text.parse())) else {
        return ExitCode::from(2);
    };
    // Nobody reads what it prints: the warden sees that it has ended, and starts it again.
    match run(file, most) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(file: String, most: usize) -> io::Result<()> {
    let server = Server::new(process::inherited(LISTENER)?, process::inherited(COUNTS)?, file, most)?;
    // A kernel before 6.14 calls a program that was executed by its descriptor after the number of that.
    rustix::thread::set_name(NAME)?;
    credential::set_undumpable()?;
    credential::set_no_new_privs()?;
    let filter = bailiwick_plan::seccomp::filter_of_lending();
    let filter: Vec<_> = filter.iter().map(|step| (step.code, step.jt, step.jf, step.k)).collect();
    seccomp::load(&filter)?;
    server.run()
}
