//! Hooks that run before a command: asks them whether it may change a tenant, before anything is written.
//!
//! Danger: whatever is not a clear consent refuses the command. A file of hooks.d that cannot be read may be such a hook, so it
//! refuses too.

use crate::configuration;
use bailiwick_diagnostics::render;
use bailiwick_hooks::{HookEnd, HookReply, HookRequest, ask, socket};
use bailiwick_proto::Failure;
use bailiwick_targets::{Hook, HookWhen, before_body, hooks};
use bailiwick_types::{EventData, EventType, ExitStatus, Moment, TenantName, visible_lines};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// How to go on without a hook.
const SKIP: &str = "--skip-hooks does it without asking";

/// Whether a command asks the hooks that run before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hooks {
    /// It does.
    Ask,
    /// The operator said that it should not.
    Skip,
}

/// The hooks that run before commands.
#[derive(Debug)]
pub(crate) struct BeforeHooks {
    hooks: Vec<Hook>,
    socket: PathBuf,
}

impl BeforeHooks {
    /// Reads them; none when they are skipped.
    pub(crate) fn read(config: &Path, which: Hooks) -> Result<Self, Failure> {
        if which == Hooks::Skip {
            return Ok(Self { hooks: Vec::new(), socket: PathBuf::new() });
        }
        let targets = hooks(config);
        if !targets.diagnostics.is_empty() {
            let problems = render(&targets.diagnostics);
            let message = format!(
                "nothing was changed: a hook cannot be read, and it may be one that refuses this; mend its file, or {SKIP}\n{}",
                problems.trim_end()
            );
            return Err(Failure::of(ExitStatus::Invalid, message));
        }
        let hooks: Vec<Hook> = targets.good.into_values().filter(|hook| hook.when == HookWhen::Before).collect();
        let socket = if hooks.is_empty() { PathBuf::new() } else { socket(&configuration::host(config)?.runtime_dir) };
        Ok(Self { hooks, socket })
    }

    /// Whether there is a hook for events of a type.
    pub(crate) fn are_for(&self, kind: EventType) -> bool {
        self.hooks.iter().any(|hook| hook.on.contains(&kind))
    }

    /// Asks each hook for this type, one after the other, until one does not consent.
    pub(crate) fn ask(&self, kind: EventType, tenant: &TenantName, data: &EventData) -> Result<(), Failure> {
        let at = Moment(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
        let body = before_body(kind, tenant, rustix::process::getuid().as_raw(), data, at);
        for hook in self.hooks.iter().filter(|hook| hook.on.contains(&kind)) {
            let request = HookRequest { hook: hook.name.clone(), body: body.clone() };
            let failed = |status, why: &str| {
                let message = format!(
                    "nothing was changed for \"{tenant}\": the hook \"{}\" did not consent: {why}; {SKIP}",
                    hook.name
                );
                Err(Failure::of(status, message))
            };
            match ask(&self.socket, &request, hook.timeout.duration()) {
                Ok(reply) if reply.is_done() => {}
                Ok(reply) if reply.end == HookEnd::Exited(HookReply::REFUSES) => {
                    return Err(refusal(hook, tenant, &reply));
                }
                Ok(reply) => return failed(ExitStatus::Failed, &reply.failure()),
                Err(error) => return failed(ExitStatus::Failed, &Failure::new(ExitStatus::Failed, &error).message),
            }
        }
        Ok(())
    }
}

/// What a hook says that refuses.
fn refusal(hook: &Hook, tenant: &TenantName, reply: &HookReply) -> Failure {
    let said = visible_lines(reply.said.trim());
    let why = if said.is_empty() { "and does not say why".to_owned() } else { format!("and says:\n{said}") };
    Failure::of(
        ExitStatus::Refused,
        format!("nothing was changed for \"{tenant}\": the hook \"{}\" refuses this, {why}", hook.name),
    )
}
