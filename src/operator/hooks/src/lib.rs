//! Floor 6: runs the operator's hooks, and asks for that.
//!
//! `bailiwick-hooks` listens on a socket for `bailiwick-notify` and for root, as a user of its own that has no right over anything.
//! Each connection is one run of one hook, in a process of its own: it reads the file of the hook, runs its program, ends everything
//! that this has started, and answers. The other side names a hook and says what it reads, and can choose no program.
//!
//! Danger: what a hook reads was chosen in part by tenants. A hook that is taken over must reach no secret and no root, and must not
//! stay: whatever it starts, in whatever session or process group, is a descendant of the process of its run, and is killed with it. It
//! must not decide what another hook answers either, so each has a Landlock domain of its own.

mod ask;
mod descendants;
mod filter;
mod message;
mod run;

pub use ask::{AskHookError, ask, socket};
pub use descendants::{end_all, end_others};
pub use message::{HookEnd, HookReply, HookRequest, MAX_REPLY};
pub use run::{serve, status};
