//! Hashes of passwords (`crypt(5)`), made by the system's own library.
//!
//! Danger: the time of a comparison must not depend on where two hashes differ.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;

/// `sizeof(struct crypt_data)` of `crypt(3)`.
const DATA: usize = 32_768;

// Neither rustix nor nix has these. Libraries in Rust know fewer methods than the hashes of a host use.
#[link(name = "crypt")]
unsafe extern "C" {
    fn crypt_rn(phrase: *const c_char, setting: *const c_char, data: *mut c_void, size: c_int) -> *mut c_char;
}

/// Hashes a password with the method, cost and salt of `setting`, which may be a whole hash.
///
/// # Errors
/// `EINVAL` for a setting that the library does not know, and for a password or setting with a NUL byte.
pub fn hash(password: &[u8], setting: &str) -> io::Result<String> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let (password, setting) = (CString::new(password).map_err(invalid)?, CString::new(setting).map_err(invalid)?);
    let mut data = vec![0u8; DATA];
    let size = c_int::try_from(data.len()).expect("a small number");
    // SAFETY: crypt_rn(3) reads two NUL-terminated strings that outlive the call, and writes at most `size` bytes to `data`,
    // which has that many. The allocator aligns large blocks to 16 bytes, which is enough for the library's structure.
    let hashed = unsafe { crypt_rn(password.as_ptr(), setting.as_ptr(), data.as_mut_ptr().cast(), size) };
    if hashed.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the pointer is not null, so it is to a NUL-terminated string inside `data`, which still lives.
    let hashed = unsafe { CStr::from_ptr(hashed) };
    let hashed = hashed.to_str().map(str::to_owned).map_err(|_| io::ErrorKind::InvalidData.into());
    // The buffer holds values that the library has derived from the password.
    data.fill(0);
    std::hint::black_box(&data);
    hashed
}

/// Whether a password has this hash. The time does not depend on where the hashes differ.
///
/// # Errors
/// As for [`hash`].
pub fn matches(password: &[u8], hash_of_it: &str) -> io::Result<bool> {
    let hashed = hash(password, hash_of_it)?;
    let differs = hashed.bytes().zip(hash_of_it.bytes()).fold(0, |all, (one, other)| all | (one ^ other));
    Ok(hashed.len() == hash_of_it.len() && std::hint::black_box(differs) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::PasswordHash;

    #[test]
    fn a_password_has_its_hash_and_no_other() {
        let setting = "$y$j9T$F5Jx5fExrKuPp53xLKQ..1";
        let hashed = hash(b"open sesame", setting).expect("hashes");
        assert!(hashed.starts_with(setting), "{hashed}");
        assert!(matches(b"open sesame", &hashed).expect("compares"));
        for other in [&b""[..], b"open sesamE", b"open sesame "] {
            assert!(!matches(other, &hashed).expect("compares"), "{other:?}");
        }
        // The beginning of a hash is no hash.
        assert!(!matches(b"open sesame", &hashed[..hashed.len() - 1]).unwrap_or(false));
        for (password, setting) in
            [(&b"a\0b"[..], hashed.as_str()), (b"a", "*0"), (b"a", "!"), (b"a", ""), (b"a", "$6$a\0b")]
        {
            assert!(hash(password, setting).is_err(), "{password:?} {setting:?}");
        }
    }

    /// For every method that a policy may name.
    #[test]
    fn the_dummy_hash_costs_as_much_as_a_real_one() {
        for setting in [
            "$y$j9T$F5Jx5fExrKuPp53xLKQ..1",
            "$gy$j9T$F5Jx5fExrKuPp53xLKQ..1",
            "$7$CU..../....SodiumChloride",
            "$2b$05$CCCCCCCCCCCCCCCCCCCCC.",
            "$2y$05$CCCCCCCCCCCCCCCCCCCCC.",
            "$6$rounds=1000$saltsalt",
            "$5$saltsalt",
        ] {
            let hashed = hash(b"open sesame", setting).expect("hashes");
            let nobodys = hashed.parse::<PasswordHash>().expect("a hash").of_nobody();
            assert_eq!(nobodys.as_str().len(), hashed.len(), "{setting}");
            let parts = |text: &str| text.matches('$').count();
            assert_eq!(parts(nobodys.as_str()), parts(&hashed), "{setting}");
            for password in [&b""[..], b"open sesame"] {
                assert!(!matches(password, nobodys.as_str()).expect("compares"), "{setting}");
            }
            // An attacker could only measure the time, so method and cost must be the same.
            let again = hash(b"open sesame", nobodys.as_str()).expect("hashes");
            let cost = |text: &str| text.split('$').take(3).map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(cost(&again), cost(&hashed), "{setting}");
        }
    }

    /// From the specification of SHA-crypt, by U. Drepper.
    #[test]
    fn a_hash_of_another_program_is_recognised() {
        let hashed =
            "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1";
        assert!(matches(b"Hello world!", hashed).expect("compares"));
    }
}
