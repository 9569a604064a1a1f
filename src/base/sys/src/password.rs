//! Hashes of passwords (`crypt(5)`), by the system's own library.

use std::ffi::{CStr, CString, c_char, c_int, c_ulong, c_void};
use std::io;

/// `sizeof(struct crypt_data)` and `CRYPT_GENSALT_OUTPUT_SIZE` of `crypt(3)` and `crypt_gensalt(3)`.
const DATA: usize = 32_768;
const SETTING: usize = 192;

// Neither rustix nor nix has them, and the methods of libraries in Rust are fewer than a host's hashes use.
#[link(name = "crypt")]
unsafe extern "C" {
    fn crypt_rn(phrase: *const c_char, setting: *const c_char, data: *mut c_void, size: c_int) -> *mut c_char;
    fn crypt_gensalt_rn(
        prefix: *const c_char,
        count: c_ulong,
        random: *const c_char,
        random_len: c_int,
        output: *mut c_char,
        size: c_int,
    ) -> *mut c_char;
}

/// Hashes a password by the method and with the salt of `setting`, which may be a whole hash.
///
/// # Errors
/// `EINVAL` for a setting that the library does not know, or a password or setting with a NUL in it.
pub fn hash(password: &[u8], setting: &str) -> io::Result<String> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let (password, setting) = (CString::new(password).map_err(invalid)?, CString::new(setting).map_err(invalid)?);
    let mut data = vec![0u8; DATA];
    let size = c_int::try_from(data.len()).expect("a small number");
    // SAFETY: crypt_rn(3) reads two NUL-terminated strings that live over the call, and writes at most `size` bytes to `data`, which
    // has that many and is aligned for what the library keeps there (the allocator aligns large blocks to 16).
    let hashed = unsafe { crypt_rn(password.as_ptr(), setting.as_ptr(), data.as_mut_ptr().cast(), size) };
    if hashed.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: not null, it points to a NUL-terminated string inside `data`, which is still there.
    let hashed = unsafe { CStr::from_ptr(hashed) };
    let hashed = hashed.to_str().map(str::to_owned).map_err(|_| io::ErrorKind::InvalidData.into());
    // The buffer holds what the password was turned into on the way.
    data.fill(0);
    std::hint::black_box(&data);
    hashed
}

/// Whether a password has this hash. Takes as long for one that differs early as for one that differs late.
///
/// # Errors
/// As [`hash`].
pub fn matches(password: &[u8], hash_of_it: &str) -> io::Result<bool> {
    let hashed = hash(password, hash_of_it)?;
    let differs = hashed.bytes().zip(hash_of_it.bytes()).fold(0, |all, (one, other)| all | (one ^ other));
    Ok(hashed.len() == hash_of_it.len() && std::hint::black_box(differs) == 0)
}

/// What a new hash begins with: the library's best method with its usual cost, and a fresh salt.
///
/// # Errors
/// What `crypt_gensalt(3)` says.
pub fn new_setting() -> io::Result<String> {
    let mut output = vec![0u8; SETTING];
    let size = c_int::try_from(output.len()).expect("a small number");
    // SAFETY: with null for the prefix and the random bytes the library chooses both itself (crypt_gensalt(3)); it writes at most
    // `size` bytes to `output`, which has that many.
    let setting =
        unsafe { crypt_gensalt_rn(std::ptr::null(), 0, std::ptr::null(), 0, output.as_mut_ptr().cast(), size) };
    if setting.is_null() {
        return Err(io::Error::last_os_error());
    }
    let text = CStr::from_bytes_until_nul(&output).map_err(|_| io::ErrorKind::InvalidData)?;
    text.to_str().map(str::to_owned).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::PasswordHash;

    #[test]
    fn a_password_has_its_hash_and_no_other() {
        let setting = new_setting().expect("a setting");
        assert!(setting.starts_with("$y$"), "{setting}");
        let hashed = hash(b"open sesame", &setting).expect("hashes");
        assert!(hashed.starts_with(&setting) && new_setting().expect("another") != setting);
        assert!(matches(b"open sesame", &hashed).expect("compares"));
        for other in [&b""[..], b"open sesamE", b"open sesame "] {
            assert!(!matches(other, &hashed).expect("compares"), "{other:?}");
        }
        // A hash that is only the beginning of one is none.
        assert!(!matches(b"open sesame", &hashed[..hashed.len() - 1]).unwrap_or(false));
        for (password, setting) in
            [(&b"a\0b"[..], hashed.as_str()), (b"a", "*0"), (b"a", "!"), (b"a", ""), (b"a", "$6$a\0b")]
        {
            assert!(hash(password, setting).is_err(), "{password:?} {setting:?}");
        }
    }

    /// By every method that a policy may name.
    #[test]
    fn nobodys_hash_is_compared_like_anybodys() {
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
            // What is told apart is how long it takes: the method and its cost are the same.
            let again = hash(b"open sesame", nobodys.as_str()).expect("hashes");
            let cost = |text: &str| text.split('$').take(3).map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(cost(&again), cost(&hashed), "{setting}");
        }
    }

    /// From the specification of SHA-crypt, by U. Drepper.
    #[test]
    fn what_other_programs_have_hashed_is_known() {
        let hashed =
            "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1";
        assert!(matches(b"Hello world!", hashed).expect("compares"));
    }
}
