//! The steps of what this program does to the router, in order. Tests make it fail, stop and end at each of them.

use std::fmt;

/// Declares the steps in one table: variant and word. The first part of a word says which work the step belongs to.
macro_rules! steps {
    ($($(#[$doc:meta])* $step:ident = $word:literal;)*) => {
        /// One step.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Step {
            $($(#[$doc])* $step,)*
        }

        impl Step {
            /// All of them, in order.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$step),*];

            /// The word of the step: printed by `--steps`.
            pub(crate) fn word(self) -> &'static str {
                match self {
                    $(Self::$step => $word,)*
                }
            }
        }
    };
}

steps! {
    /// Find the links that are there.
    StartLinks = "start-links";
    /// Compare the rules and the elements.
    StartRules = "start-rules";
    /// Compare the routes of the router.
    StartRoutes = "start-routes";
    /// Compare what leads over the links of jails, and their rates.
    StartJails = "start-jails";
    /// Remove the counts of tenants that are purged.
    StartCounts = "start-counts";
    /// Make rules as they should be, in place of those that are there.
    AnewRules = "anew-rules";
    /// Look whether the tenant has its number for the first time.
    ConnectNumber = "connect-number";
    /// Note that it has: nothing is counted for it yet.
    ConnectNote = "connect-note";
    /// Remove the link of an earlier jail.
    ConnectOldLink = "connect-old-link";
    /// Put the rules of the tenant in force.
    ConnectRules = "connect-rules";
    /// Have the link made.
    ConnectLink = "connect-link";
    /// Set it up: its neighbours.
    ConnectNeighbours = "connect-neighbours";
    /// Its rates.
    ConnectRates = "connect-rates";
    /// Bring it up.
    ConnectUp = "connect-up";
    /// The routes over it.
    ConnectRoutes = "connect-routes";
    /// Put the links of others to the tenant in force.
    ConnectPeers = "connect-peers";
    /// Reply.
    ConnectReply = "connect-reply";
    /// Change the rate into the jail.
    ChangeRateIn = "change-rate-in";
    /// Change the rate out of the jail.
    ChangeRateOut = "change-rate-out";
    /// Put other rules in force.
    ChangeRules = "change-rules";
    /// Put the links of others to the tenant in force.
    ChangePeers = "change-peers";
    /// Reply.
    ChangeReply = "change-reply";
    /// Take the rules of a tenant away.
    DisconnectRules = "disconnect-rules";
    /// Remove the rules of its policy, if it was the last one with it.
    DisconnectPolicy = "disconnect-policy";
    /// Remove its rate.
    DisconnectRate = "disconnect-rate";
    /// Forget what a tenant has used.
    ForgetUsage = "forget-usage";
    /// Take its rules away.
    ForgetRules = "forget-rules";
    /// Remove its link.
    ForgetLink = "forget-link";
    /// Remove its counts.
    ForgetCounts = "forget-counts";
    /// Reply.
    ForgetReply = "forget-reply";
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// No step fails by itself.
#[cfg(not(feature = "failpoints"))]
pub(crate) type FailPoint = std::convert::Infallible;

/// A step that a test has made to fail.
#[cfg(feature = "failpoints")]
#[derive(Debug, thiserror::Error)]
#[error("fail-point at the step \"{0}\"")]
pub(crate) struct FailPoint(Step);

/// Marks the begin of a step. In a test build, it can fail here.
#[cfg(not(feature = "failpoints"))]
#[inline]
#[expect(clippy::unnecessary_wraps, reason = "the signature is that of the test build")]
pub(crate) fn reach(_step: Step) -> Result<(), FailPoint> {
    Ok(())
}

/// As above, in a test build. The file named by `BAILIWICK_FAILPOINT` holds `STEP error`, `STEP kill`, or `STEP wait`, which
/// never ends. It must be where this program may read: below the directory of the policy.
#[cfg(feature = "failpoints")]
pub(crate) fn reach(step: Step) -> Result<(), FailPoint> {
    use std::io::Write;
    let path = std::env::var_os("BAILIWICK_FAILPOINT");
    let failpoint = path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    match failpoint.trim().split_once(' ') {
        Some((word, "error")) if word == step.word() => Err(FailPoint(step)),
        // Its filter of system calls knows no signals. This end is as sudden.
        Some((word, "kill")) if word == step.word() => bailiwick_sys::process::exit_now(137),
        Some((word, "wait")) if word == step.word() => {
            writeln!(std::io::stderr(), "bailiwick-net: waits at {step}").ok();
            loop {
                rustix::event::poll(&mut [], None).ok();
            }
        }
        _ => Ok(()),
    }
}
