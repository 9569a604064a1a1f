//! Hooks: what runs before commands and can refuse them, and what becomes of programs that fail, hang, fork away or flood.

mod after;
mod apart;
mod before;
mod bomb;
mod requests;
mod runner;
mod standalone;

use bailiwick_tests::Host;
use std::path::PathBuf;

/// The user that hooks run as.
const HOOKS: u32 = 65_087;
/// The user and the group of `bailiwick-notify`, which may ask for hooks.
const NOTIFY: u32 = 65_088;

/// Makes a program with this body, and the file of a hook that runs it. `more` are further lines of that file.
///
/// The program may write below `out` of the host.
fn hook(host: &Host, name: &str, program: &str, more: &str) -> PathBuf {
    let path = script(host, name, program);
    host.write(&format!("etc/hooks.d/{name}.toml"), &format!("run = [{path:?}]\n{more}\n"));
    path
}

/// Makes an executable script that root owns.
fn script(host: &Host, name: &str, body: &str) -> PathBuf {
    let below = format!("programs/{name}");
    let path = host.path(&below);
    bailiwick_tests::write_program(&path, &format!("#!/bin/sh\n{body}\n"));
    path
}

/// A folder that hooks may write to.
fn out(host: &Host) -> PathBuf {
    let path = host.path("out");
    std::fs::create_dir_all(&path).expect("mkdir");
    std::os::unix::fs::chown(&path, Some(HOOKS), Some(HOOKS)).expect("chown");
    path
}

/// The processes whose command line has this text, which must be one that no other process has.
fn processes_with(text: &str) -> Vec<String> {
    let own = std::process::id().to_string();
    let entries = std::fs::read_dir("/proc").expect("lists").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
    pids.filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()) && *pid != own)
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(text)
        })
        .collect()
}
