//! Loads a seccomp filter (`seccomp(2)`) into this thread and all it starts.

use std::io;

/// Loads a program of classic BPF: operation, jump if true, jump if false, operand. Without `no_new_privs` the caller
/// needs `CAP_SYS_ADMIN` over its user namespace.
///
/// # Errors
/// `E2BIG` past 4,096 instructions, else what `seccomp(2)` says; `EINVAL` for a program that the kernel's checker
/// refuses.
pub fn load(program: &[(u16, u8, u8, u32)]) -> io::Result<()> {
    let filter: Vec<libc::sock_filter> =
        program.iter().map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
    let len = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    // SAFETY: seccomp(2) reads one sock_fprog, a live local, and `len` instructions behind its pointer, which is to a
    // vector of exactly that length that outlives the call; the kernel copies and checks them and writes nothing. Neither
    // rustix nor nix has the call.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0 as libc::c_ulong, &raw const program)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
