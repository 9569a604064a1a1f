//! `bailiwick password`: hashes a password for `[[ftp]]`.

use crate::output;
use bailiwick_proto::Failure;
use bailiwick_types::ExitStatus;
use std::io::{self, BufRead, IsTerminal};
use yescrypt::{PasswordHasher, Yescrypt};

/// Longest password of `crypt(3)`, in bytes: `CRYPT_MAX_PASSPHRASE_SIZE` without the terminator.
const MAX_LENGTH: usize = 511;

/// Reads a password and prints its hash.
pub(crate) fn hash_password() -> Result<(), Failure> {
    let password = read()?;
    if password.is_empty() || password.len() > MAX_LENGTH || password.contains('\0') {
        let message = format!("a password has 1 to {MAX_LENGTH} bytes and no NUL character");
        return Err(Failure::of(ExitStatus::Invalid, message));
    }
    output::print(&format!("{}\n", hash(&password)?))
}

/// The hash of a password with a new salt and the cost that `crypt(5)` recommends.
fn hash(password: &str) -> Result<String, Failure> {
    let failed = |error| Failure::of(ExitStatus::Failed, format!("cannot hash the password: {error}"));
    Ok(Yescrypt::default().hash_password(password.as_bytes()).map_err(failed)?.as_str().to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_sys::password::matches;
    use bailiwick_types::PasswordHash;

    /// The module for FTP servers compares by the library of the host.
    #[test]
    fn the_library_of_the_host_reads_the_hash() {
        for password in ["open sesame", "p", "\u{e4}\u{20ac}", &"x".repeat(MAX_LENGTH)] {
            let hashed = hash(password).expect("hashes");
            // The method and the cost of `crypt_gensalt(3)` without a prefix.
            assert!(hashed.starts_with("$y$j9T$"), "{hashed}");
            assert!(hashed.parse::<PasswordHash>().is_ok(), "{hashed}");
            assert!(matches(password.as_bytes(), &hashed).expect("compares"), "{hashed}");
            assert!(!matches(b"another", &hashed).expect("compares"));
            assert_ne!(hash(password).expect("hashes"), hashed, "the salt is new");
        }
    }
}
