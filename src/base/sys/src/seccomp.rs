//! Loads a seccomp filter (`seccomp(2)`) into this thread, or into a program that is started. Its children inherit the filter.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Loads a program of classic BPF. Each instruction is its code, the jump if true, the jump if false, and the operand. Without
/// `no_new_privs` the caller needs `CAP_SYS_ADMIN` over its user namespace.
///
/// # Errors
/// `EINVAL` for a program that the kernel's checker refuses or that has more than 4,096 instructions, `E2BIG` for one with more
/// than 65,535 instructions, else the error of `seccomp(2)`.
pub fn load(program: &[(u16, u8, u8, u32)]) -> io::Result<()> {
    load_steps(&steps(program))
}

/// Makes the process of a command load a filter before its program runs. As for [`load`], the caller needs `no_new_privs` or
/// `CAP_SYS_ADMIN`. That the kernel refuses the filter is an error of starting the command.
pub fn begin_with(command: &mut Command, program: &[(u16, u8, u8, u32)]) {
    let filter = steps(program);
    let prepare = move || load_steps(&filter);
    // SAFETY: between fork and exec, `prepare` only makes a system call. It takes no lock and allocates no memory. No library has a
    // safe way to make calls of the caller's choice there.
    unsafe { command.pre_exec(prepare) };
}

fn steps(program: &[(u16, u8, u8, u32)]) -> Vec<libc::sock_filter> {
    program.iter().map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect()
}

fn load_steps(filter: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    // SAFETY: seccomp(2) reads one sock_fprog, which is a live local, and `len` instructions through its pointer, which is to a
    // slice of that length that outlives the call. The kernel copies and checks them, and writes nothing. Neither rustix nor
    // nix has the call.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0 as libc::c_ulong, &raw const program)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
