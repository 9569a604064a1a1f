//! Logins through `bailiwick-shell`, without a network and sshd.

use crate::{Host, profiles, stage};
use std::process::Command;

/// Takes the place of a network and sshd.
const SCRIPT: &str = r#"#!/bin/sh
# ssh [OPTION...] TENANT [COMMAND...]
subsystem=
while :; do
    case $1 in
    -s) subsystem=1; shift ;;
    -l | -p | -o | -F | -i) shift 2 ;;
    --) shift; break ;;
    -*) shift ;;
    *) break ;;
    esac
done
tenant=$1
shift
unset SSH_ORIGINAL_COMMAND
if [ -n "$subsystem" ]; then export SSH_ORIGINAL_COMMAND=internal-sftp
elif [ $# -gt 0 ]; then export SSH_ORIGINAL_COMMAND="$*"
fi
export SSH_CONNECTION='192.0.2.7 50000 192.0.2.1 22'
id=${AS:-$(cat "$(dirname "$0")/$tenant.id")}
[ -z "$SSH_USER_AUTH" ] || chmod 644 "$SSH_USER_AUTH"
exec setpriv --reuid "$id" --regid "$id" --clear-groups -- \
    "$(dirname "$0")/bailiwick-shell" --config "$(dirname "$0")/../etc" -c bailiwick-shell
"#;

impl Host {
    /// Writes a script that takes the arguments of `ssh(1)` and starts `bailiwick-shell` as sshd does under
    /// `ForceCommand`: as the host user of the tenant, with the client's command in `SSH_ORIGINAL_COMMAND`.
    /// Supports the tenants named like [`profiles`].
    pub fn write_ssh(&self) {
        for tenant in profiles() {
            let shown: serde_json::Value = serde_json::from_str(&self.ok(&["show", tenant, "--json"])).expect("JSON");
            let id = shown["host_user"].as_u64().unwrap_or_default();
            let ids = &shown["ids"];
            assert!(id < ids["first"].as_u64().expect("a number"), "no process of the host has an id of a jail's");
            self.write(&format!("bin/{tenant}.id"), &id.to_string());
        }
        crate::write_program(&self.path("bin/ssh"), SCRIPT);
        // Other users may have no access to the directory of the programs.
        crate::copy_program(&stage().join("bailiwick-shell"), &self.path("bin/bailiwick-shell"));
    }

    /// The script of [`Self::write_ssh`], ready to run.
    #[must_use]
    pub fn ssh(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.path("bin/ssh"));
        command.args(arguments);
        command
    }
}
