//! The filter of system calls of a hook: it changes the limits of no other process.
//!
//! A process may change the limits of every process of its user (`prlimit(2)`), also from inside a Landlock domain. With a limit of
//! processor time it would kill another hook or `bailiwick-hooks`, and with one of open files make another hook fail in a way that
//! its author has not thought of.

/// The filter, as `bailiwick_sys::seccomp` takes it. The call is refused with `EPERM` when it names a process, and 0 is the caller.
pub(crate) const OWN_LIMITS: [(u16, u8, u8, u32); 12] = [
    (LOAD, 0, 0, ARCH),
    (EQUAL, 0, 3, X86_64),
    (LOAD, 0, 0, NUMBER),
    (EQUAL, 4, 0, PRLIMIT),
    (EQUAL, 3, 5, X32_BIT | PRLIMIT),
    // 32-bit programs. A machine has no other kind.
    (EQUAL, 0, 5, I386),
    (LOAD, 0, 0, NUMBER),
    (EQUAL, 0, 2, PRLIMIT_I386),
    (LOAD, 0, 0, FIRST_ARGUMENT),
    (EQUAL, 0, 1, 0),
    (RETURN, 0, 0, ALLOW),
    (RETURN, 0, 0, REFUSE),
];

// From linux/bpf_common.h: load 32 bits, jump if equal, return.
const LOAD: u16 = 0x20;
const EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
// Offsets in `struct seccomp_data` of linux/seccomp.h. The kernel takes the low half of the argument, as the number is an `int`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;
// From linux/audit.h, and the numbers of prlimit64 there.
const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const X32_BIT: u32 = 0x4000_0000;
const PRLIMIT: u32 = 302;
const PRLIMIT_I386: u32 = 340;
// SECCOMP_RET_ALLOW, and SECCOMP_RET_ERRNO with EPERM.
const ALLOW: u32 = 0x7fff_0000;
const REFUSE: u32 = 0x0005_0001;
