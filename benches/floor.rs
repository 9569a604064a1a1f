//! The lower bound: only the system calls that create a jail, as a command of its own. Namespaces, id maps, a root,
//! `/proc`, a program and its end; no policy, no limits, no control.

use bailiwick_sys::process::{ALL_NAMESPACES, Cloned};
use bailiwick_sys::{credential, mount, process};
use rustix::process::{Pid, WaitOptions};
use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// The first argument that selects it.
pub(crate) const VERB: &str = "floor";

/// Runs a program below `root` in namespaces of its own and waits for its end.
pub(crate) fn run(root: &str, program: &str, first_id: u32) -> io::Result<()> {
    let (go_read, go_write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let pid = match process::clone_into(ALL_NAMESPACES, None, &[go_read.as_fd()])? {
        Cloned::Child => {
            // The end of the pipe signals that the ids are mapped.
            let read = rustix::io::read(&go_read, &mut [0; 1]);
            let result = read.map_err(io::Error::from).and_then(|_| become_program(root, program));
            let status = result.map_or_else(|error| error.raw_os_error().unwrap_or(1), |never| match never {});
            process::exit_now(status.clamp(1, 125))
        }
        Cloned::Parent { pid, .. } => pid,
    };
    let map = format!("0 {first_id} 65536\n");
    for name in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{pid}/{name}"), &map)?;
    }
    drop(go_write);
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    match rustix::process::waitpid(Some(pid), WaitOptions::empty())? {
        Some((_, status)) if status.exit_status() == Some(0) => Ok(()),
        status => Err(io::Error::other(format!("the child ended with {status:?}"))),
    }
}

fn become_program(root: &str, program: &str) -> io::Result<Infallible> {
    credential::become_for_good(0, 0)?;
    mount::make_all_private()?;
    let tree = mount::detached_copy(rustix::fs::CWD, root)?;
    mount::attach(&tree, bailiwick_sys::file::open_dir(Path::new(root))?)?;
    // While the host's own `/proc` is visible: otherwise the kernel refuses a new one (`mount_too_revealing`).
    let proc = mount::new_file_system("proc", &[], 0)?;
    mount::attach(&proc, mount::target(&tree, "/proc")?)?;
    rustix::process::fchdir(&tree)?;
    mount::pivot_to_current_directory()?;
    let program = CString::new(program)?;
    Err(process::execute_path(&program, std::slice::from_ref(&program), &[]))
}
