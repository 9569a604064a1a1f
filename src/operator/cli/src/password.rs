//! `bailiwick password`: hashes a password for `[[ftp]]`.

use crate::output;
use bailiwick_proto::Failure;
use bailiwick_sys::password;
use bailiwick_types::ExitStatus;
use std::io::{self, BufRead, IsTerminal};

/// Longest password of `crypt(3)`, in bytes: `CRYPT_MAX_PASSPHRASE_SIZE` without the terminator.
const MAX_LENGTH: usize = 511;

/// Reads a password and prints its hash.
pub(crate) fn hash_password() -> Result<(), Failure> {
    let password = read()?;
    if password.is_empty() || password.len() > MAX_LENGTH || password.contains('\0') {
        let message = format!("a password has 1 to {MAX_LENGTH} bytes and no NUL character");
        return Err(Failure::of(ExitStatus::Invalid, message));
    }
    let failed = |error: io::Error| Failure::of(ExitStatus::Failed, format!("cannot hash the password: {error}"));
    let hash = password::new_setting().and_then(|setting| password::hash(password.as_bytes(), &setting));
    output::print(&format!("{}\n", hash.map_err(failed)?))
}

fn read() -> Result<String, Failure> {
    let failed = |error: io::Error| Failure::of(ExitStatus::Failed, format!("cannot read the password: {error}"));
    if !io::stdin().is_terminal() {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map_err(failed)?;
        return Ok(line.trim_end_matches('\n').to_owned());
    }
    let password = rpassword::prompt_password("Password: ").map_err(failed)?;
    if rpassword::prompt_password("Again: ").map_err(failed)? != password {
        return Err(Failure::of(ExitStatus::Invalid, "the two passwords differ"));
    }
    Ok(password)
}
