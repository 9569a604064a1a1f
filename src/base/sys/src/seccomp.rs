//! Loads a seccomp filter (`seccomp(2)`) into this thread. Its children inherit the filter.

use std::io;

/// Loads a program of classic BPF. Each instruction is its code, the jump if true, the jump if false, and the operand. Without
/// `no_new_privs` the caller needs `CAP_SYS_ADMIN` over its user namespace.
///
/// # Errors
/// `EINVAL` for a program that the kernel's checker refuses or that has more than 4,096 instructions, `E2BIG` for one with more
/// than 65,535 instructions, else the error of `seccomp(2)`.
pub fn load(program: &[(u16, u8, u8, u32)]) -> io::Result<()> {
    let filter: Vec<libc::sock_filter> =
        program.iter().map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
    let len = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    // SAFETY: seccomp(2) reads one sock_fprog, which is a live local, and `len` instructions through its pointer, which is to a
    // vector of that length that outlives the call. The kernel copies and checks them, and writes nothing. Neither rustix nor
    // nix has the call.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0 as libc::c_ulong, &raw const program)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
