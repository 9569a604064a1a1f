//! ELF files (`elf(5)`): whether a program needs a loader.

use std::io;
use std::os::fd::AsFd;

const PT_INTERP: u32 = 3;
/// The most program headers that are looked at; a real program has about ten.
const MAX_HEADERS: u16 = 64;

/// Whether a program names a loader (`PT_INTERP`). A program without one needs no other file to run.
///
/// # Errors
/// `ENOEXEC` when the file is no 64-bit little-endian program, else the error of `pread(2)`.
pub fn needs_loader(program: impl AsFd) -> io::Result<bool> {
    let read = |offset: u64, len: usize| -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let got = rustix::io::pread(program.as_fd(), &mut bytes, offset)?;
        if got == len { Ok(bytes) } else { Err(no_program()) }
    };
    let head = read(0, 64)?;
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return Err(no_program());
    }
    let number = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let table = u64::from_le_bytes(*head[32..].first_chunk().ok_or_else(no_program)?);
    let (size, count) = (number(54), number(56));
    if size < 56 || count > MAX_HEADERS {
        return Err(no_program());
    }
    for index in 0..u64::from(count) {
        let offset = table.checked_add(index * u64::from(size)).ok_or_else(no_program)?;
        let kind = read(offset, 4)?;
        if u32::from_le_bytes(*kind.first_chunk().ok_or_else(no_program)?) == PT_INTERP {
            return Ok(true);
        }
    }
    Ok(false)
}

fn no_program() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOEXEC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_needs_a_loader_and_a_text_is_no_program() {
        let own = std::fs::File::open("/proc/self/exe").expect("opens");
        assert!(needs_loader(&own).expect("is a program"));
        let text = std::fs::File::open("/proc/self/status").expect("opens");
        assert_eq!(needs_loader(&text).unwrap_err().raw_os_error(), Some(libc::ENOEXEC));
    }
}
