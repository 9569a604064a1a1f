//! The desired state of a tenant's jail, and the next step towards it. No other place decides this: the reconciler,
//! `apply`, `plan`, `status`, `list` and the audit call this module. Pure: no file, no kernel call, no clock.
//!
//! [`desired`] says what the policy wants. [`Actual`] holds what the warden reports about the tenant. [`next`] compares
//! the two. [`tenant_state`] is the word that an operator reads. `bailiwickd` takes the steps of [`next`] until none is
//! left.
//!
//! ```text
//!        start (bailiwickd, or an operator with `start`); a wake, if the jail runs on demand
//!   +--------------------------------------------------------------+
//!   |                                                              v      freeze (operator; or
//! +-+----+ start, no storage yet  +-----------+              +-----------+ bailiwickd, if idle) +--------+
//! | Down +----------------------->| Preparing |              |  Running  +--------------------->| Frozen |
//! +------+       (bailiwickd)     +-----+-----+              |           |<---------------------+        |
//!   ^ ^                                 |                    +-+---+---+-+  thaw (operator; or  +---+----+
//!   | |   storage is there (warden)     |      does not answer |   ^   |      a wake, if idle)       |
//!   | +---------------------------------+             (tenant) v   |   |                            |
//!   |                                                   +------+---+-+ |                            |
//!   |                                                   |   Silent   | | answers (tenant)           |
//!   |                                                   +------+-----+ |                            |
//!   |                                                          |       |                            |
//!   |  every process is gone (kernel), groups are (warden)     v       v                            v
//!   |  +----------+     stop or replace (bailiwickd), stop or restart (operator), sleep (both),
//!   +--+ Clearing |<--- init ends (tenant), processes are killed for memory (kernel)
//!      +----------+
//! ```
//!
//! [`JailState::Frozen`] tells who froze the jail. What an operator froze only an operator thaws. `bailiwickd` freezes
//! only a jail that runs on demand and is idle, and whatever needs that jail thaws it: such a freeze refuses nobody. An
//! operator's freeze of a jail that is frozen already makes the freeze the operator's.
//!
//! A jail that runs on demand and is [`JailState::Down`] is asleep. There is no mark for this: the policy says that the
//! jail runs on demand ([`sleep`]), and the warden says that it is down. A first start is a start in any case, because it
//! gives the tenant its ids and its storage.
//!
//! Beside the state there is a mark, [`Hold`]. `bailiwick stop` sets it; `bailiwick start` and `restart` remove it.
//! Only the warden stores it. `bailiwickd` does not start a jail with the mark, and nothing wakes it.
//!
//! | state | who ends it |
//! |---|---|
//! | `Down` | `bailiwickd` at its next round, or when something wakes the jail; or an operator |
//! | `Preparing` | the warden, when the helper that makes the storage has ended; it tells `bailiwickd` |
//! | `Clearing` | the warden, when the kernel says that the last process is gone; it tells `bailiwickd` |
//! | `Running` | the policy (a replacement or a stop), `bailiwickd` (sleep), an operator, or the jail's own init |
//! | `Silent` | the tenant, whose init answers again; or `bailiwickd`, after `replace_silent_init` |
//! | `Frozen` by an operator | an operator |
//! | `Frozen` by `bailiwickd` | whatever needs the jail, `bailiwickd` (sleep, or the jail no longer runs on demand), or an operator |
//!
//! To add a state (such as one that moves to another image):
//!
//! 1. Add a variant to [`JailState`] if the warden or `bailiwickd` observes it, to [`DesiredJail`] if the policy wants
//!    it, and to [`JailStep`] if a new step leads to it. No match here has a wildcard, so the compiler names every
//!    place that must decide.
//! 2. Add it to the diagram, and to `JAILS` or `DESIRED` in the tests: they walk through every combination.
//! 3. Add the operator's word to `TenantState` if none of the old words fits.
//!
//! Danger: `bailiwickd` would repeat a step that does not lead to the desired state in each round, for ever. The test
//! `steps_lead_to_the_desired_state_and_none_is_taken_twice` must know every state.

use bailiwick_policy::{Declared, Sleep, Tenant};
use bailiwick_types::{Access, FrozenBy, ServiceName, TenantState};

/// What the policy knows of a tenant.
#[derive(Debug, Clone, Copy)]
pub enum Declaration<'a> {
    /// A file declares it, or did so when it last had no errors.
    Known(&'a Tenant),
    /// No file declares the tenant.
    Deleted,
    /// Its file has errors, and no earlier declaration is known.
    Unknown,
}

/// What a tenant should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Desired {
    /// Its jail.
    pub jail: DesiredJail,
    /// Its host user.
    pub host_user: DesiredHostUser,
}

/// What a tenant's jail should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DesiredJail {
    /// Running, with this access to the storage: read-only if the tenant is suspended and a door stays open.
    Running(Access),
    /// Running with this access while something needs it, and down otherwise.
    OnDemand(Access),
    /// Down: the tenant is suspended, and no door stays open.
    Suspended,
    /// Down: no file declares the tenant.
    Deleted,
    /// Its present state: the tenant's permissions are unknown.
    Unknown,
}

impl DesiredJail {
    /// The access to the tenant's storage that its jail has while it runs; `None` if no jail should run, or if the
    /// desired state is unknown.
    #[must_use]
    pub fn access(self) -> Option<Access> {
        match self {
            Self::Running(access) | Self::OnDemand(access) => Some(access),
            Self::Suspended | Self::Deleted | Self::Unknown => None,
        }
    }
}

/// What a tenant's host user should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DesiredHostUser {
    /// There is one: the tenant has a door of sshd.
    Present,
    /// There is none: the tenant has no such door, or is deleted.
    Absent,
    /// Its present state: the tenant's permissions are unknown.
    Unknown,
}

/// Why a tenant may not sleep.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StaysAwake {
    /// Neither its file nor its plan has `[sleep]`.
    #[error("neither its file nor its plan has `[sleep]`")]
    NoSleep,
    /// It is suspended.
    #[error("it is suspended")]
    Suspended,
    /// This service has no socket, so no connection could wake the tenant for it.
    #[error("its service \"{0}\" has no socket that could wake it")]
    NoSocket(ServiceName),
}

/// When a tenant's jail sleeps. Only this function decides which tenants may sleep.
///
/// # Errors
/// Says why the tenant may not sleep.
pub fn sleep(tenant: &Tenant) -> Result<Sleep, StaysAwake> {
    let sleep = tenant.settings.sleep.ok_or(StaysAwake::NoSleep)?;
    if tenant.state != Declared::Active {
        return Err(StaysAwake::Suspended);
    }
    match tenant.settings.services.iter().find(|service| service.sockets.is_empty()) {
        Some(service) => Err(StaysAwake::NoSocket(service.name.clone())),
        None => Ok(sleep),
    }
}

/// What a tenant should have, according to its declaration.
#[must_use]
pub fn desired(declaration: Declaration<'_>) -> Desired {
    match declaration {
        Declaration::Known(tenant) => Desired {
            jail: match tenant.access() {
                Some(access) if sleep(tenant).is_ok() => DesiredJail::OnDemand(access),
                Some(access) => DesiredJail::Running(access),
                None => DesiredJail::Suspended,
            },
            host_user: if tenant.has_host_user() { DesiredHostUser::Present } else { DesiredHostUser::Absent },
        },
        Declaration::Deleted => Desired { jail: DesiredJail::Deleted, host_user: DesiredHostUser::Absent },
        Declaration::Unknown => Desired { jail: DesiredJail::Unknown, host_user: DesiredHostUser::Unknown },
    }
}

/// What a tenant has now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actual {
    /// Its jail.
    pub jail: JailState,
    /// Whether an operator holds the jail down.
    pub hold: Hold,
    /// Whether it has host ids.
    pub ids: Ids,
    /// Its host user.
    pub host_user: HostUser,
}

impl Actual {
    /// A tenant that the warden does not know.
    pub const NEVER_RAN: Self =
        Self { jail: JailState::Down, hold: Hold::Free, ids: Ids::None, host_user: HostUser::Absent };
}

/// The present state of a tenant's jail. `Access` is the jail's access to the tenant's storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JailState {
    /// There is no jail.
    Down,
    /// There is no jail yet: the warden prepares the storage.
    Preparing,
    /// Its init has ended or was asked to end. The warden removes the rest of the jail.
    Clearing,
    /// Its init runs.
    Running(Access),
    /// Its init runs and does not answer.
    Silent(Access),
    /// Its processes are frozen, by whom it says.
    Frozen(Access, FrozenBy),
}

impl JailState {
    /// The jail's access to the tenant's storage; `None` if no jail runs.
    #[must_use]
    pub fn access(self) -> Option<Access> {
        match self {
            Self::Running(access) | Self::Silent(access) | Self::Frozen(access, _) => Some(access),
            Self::Down | Self::Preparing | Self::Clearing => None,
        }
    }

    /// This state, updated with a later reading of the jail itself: `access` is `None` if the jail has ended. A state
    /// without a running jail stays the same.
    #[must_use]
    pub fn seen_again(self, access: Option<Access>) -> Self {
        match (self, access) {
            (Self::Down | Self::Preparing | Self::Clearing, _) => self,
            (Self::Running(_) | Self::Silent(_) | Self::Frozen(..), None) => Self::Down,
            (Self::Running(_), Some(access)) => Self::Running(access),
            (Self::Silent(_), Some(access)) => Self::Silent(access),
            (Self::Frozen(_, by), Some(access)) => Self::Frozen(access, by),
        }
    }
}

/// Whether an operator holds a jail down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// No: `bailiwickd` may start it.
    Free,
    /// Yes: an operator ran `bailiwick stop`.
    Held,
}

/// Whether a tenant has host ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// No: its jail never ran.
    None,
    /// Yes: it got them at its first start.
    Given,
}

/// Whether there is a host user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostUser {
    /// Yes.
    Present,
    /// No.
    Absent,
}

/// The next steps. The step for the jail comes first, because a first start gives the tenant the ids that its host user
/// needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    /// The step for the jail.
    pub jail: JailStep,
    /// The step for the host user.
    pub host_user: HostUserStep,
}

/// The next step for a jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JailStep {
    /// Nothing: it is as desired.
    None,
    /// Nothing: it should run, but an operator holds it down.
    Held,
    /// Nothing: it runs on demand, and is down until something wakes it.
    Asleep,
    /// Nothing yet: the warden is at work and will report the end of it. A start request would have to wait until then.
    Wait,
    /// Start it.
    Start,
    /// Thaw it: it was frozen because it was idle, and it no longer runs on demand.
    Thaw,
    /// Stop it, and start the desired jail.
    Replace,
    /// Stop it.
    Stop,
}

/// The next step for a host user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostUserStep {
    /// Nothing.
    None,
    /// Make it.
    Make,
    /// Remove it.
    Remove,
}

/// The next steps from the actual to the desired state.
#[must_use]
pub fn next(desired: Desired, actual: &Actual) -> Next {
    Next { jail: jail_step(desired.jail, actual), host_user: host_user_step(desired, actual) }
}

fn jail_step(desired: DesiredJail, actual: &Actual) -> JailStep {
    use JailState::{Clearing, Down, Frozen, Preparing, Running, Silent};
    match desired {
        DesiredJail::Unknown => JailStep::None,
        DesiredJail::Suspended | DesiredJail::Deleted => match actual.jail {
            // The warden refuses a pending start as soon as the storage is ready.
            Down | Preparing | Clearing => JailStep::None,
            Running(_) | Silent(_) | Frozen(..) => JailStep::Stop,
        },
        DesiredJail::Running(access) => match (actual.jail, actual.hold) {
            (Frozen(is, FrozenBy::Idle), _) if is == access => JailStep::Thaw,
            (Running(is) | Silent(is) | Frozen(is, _), _) if is == access => JailStep::None,
            (Running(_) | Silent(_) | Frozen(..), Hold::Free) => JailStep::Replace,
            (Running(_) | Silent(_) | Frozen(..), Hold::Held) => JailStep::Stop,
            (Down | Preparing | Clearing, Hold::Held) => JailStep::Held,
            (Preparing | Clearing, Hold::Free) => JailStep::Wait,
            (Down, Hold::Free) => JailStep::Start,
        },
        DesiredJail::OnDemand(access) => match (actual.jail, actual.hold, actual.ids) {
            (Running(is) | Silent(is) | Frozen(is, _), _, _) if is == access => JailStep::None,
            (Running(_) | Silent(_) | Frozen(..), Hold::Free, _) => JailStep::Replace,
            (Running(_) | Silent(_) | Frozen(..), Hold::Held, _) => JailStep::Stop,
            (Down | Preparing | Clearing, Hold::Held, _) => JailStep::Held,
            (Down, Hold::Free, Ids::None) => JailStep::Start,
            // Whoever asked for the start of a jail that is being prepared asks again.
            (Down, Hold::Free, Ids::Given) | (Preparing | Clearing, Hold::Free, _) => JailStep::Asleep,
        },
    }
}

fn host_user_step(desired: Desired, actual: &Actual) -> HostUserStep {
    match (desired.host_user, actual.host_user) {
        (DesiredHostUser::Present, HostUser::Present)
        | (DesiredHostUser::Absent, HostUser::Absent)
        | (DesiredHostUser::Unknown, HostUser::Present | HostUser::Absent) => HostUserStep::None,
        (DesiredHostUser::Absent, HostUser::Present) => HostUserStep::Remove,
        (DesiredHostUser::Present, HostUser::Absent) => match (actual.ids, desired.jail) {
            (Ids::Given, _) | (Ids::None, DesiredJail::Running(_) | DesiredJail::OnDemand(_)) => HostUserStep::Make,
            // A tenant that never ran and does not start now has no id for a host user.
            (Ids::None, DesiredJail::Suspended | DesiredJail::Deleted | DesiredJail::Unknown) => HostUserStep::None,
        },
    }
}

/// The word for an operator. If the jail is down, the word also depends on the policy.
#[must_use]
pub fn tenant_state(desired: DesiredJail, actual: &Actual) -> TenantState {
    match actual.jail {
        JailState::Clearing => TenantState::Clearing,
        JailState::Frozen(..) => TenantState::Frozen,
        JailState::Silent(_) => TenantState::Unresponsive,
        JailState::Running(Access::ReadOnly) => TenantState::SuspendedReadOnly,
        JailState::Running(Access::ReadWrite) => TenantState::Running,
        JailState::Down | JailState::Preparing => match (desired, actual.hold) {
            (DesiredJail::Unknown, _) => TenantState::Invalid,
            (DesiredJail::Deleted, _) => TenantState::Deleted,
            (
                DesiredJail::Suspended
                | DesiredJail::Running(Access::ReadOnly)
                | DesiredJail::OnDemand(Access::ReadOnly),
                _,
            ) => TenantState::Suspended,
            (DesiredJail::Running(Access::ReadWrite) | DesiredJail::OnDemand(Access::ReadWrite), Hold::Held) => {
                TenantState::Stopped
            }
            (DesiredJail::Running(Access::ReadWrite), Hold::Free) => TenantState::Down,
            (DesiredJail::OnDemand(Access::ReadWrite), Hold::Free) => match (actual.jail, actual.ids) {
                (JailState::Down, Ids::Given) => TenantState::Asleep,
                // It has never run, or is about to run for the first time.
                _ => TenantState::Down,
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Access::{ReadOnly, ReadWrite};
    use JailState::{Clearing, Down, Frozen, Preparing, Running, Silent};

    const DESIRED: [DesiredJail; 7] = [
        DesiredJail::Running(ReadWrite),
        DesiredJail::Running(ReadOnly),
        DesiredJail::OnDemand(ReadWrite),
        DesiredJail::OnDemand(ReadOnly),
        DesiredJail::Suspended,
        DesiredJail::Deleted,
        DesiredJail::Unknown,
    ];
    const JAILS: [JailState; 11] = [
        Down,
        Preparing,
        Clearing,
        Running(ReadWrite),
        Running(ReadOnly),
        Silent(ReadWrite),
        Silent(ReadOnly),
        Frozen(ReadWrite, FrozenBy::Operator),
        Frozen(ReadOnly, FrozenBy::Operator),
        Frozen(ReadWrite, FrozenBy::Idle),
        Frozen(ReadOnly, FrozenBy::Idle),
    ];

    /// Every possible combination. Without ids there is no jail, no host user and no hold.
    fn all() -> Vec<(Desired, Actual)> {
        let mut all = Vec::new();
        for jail in DESIRED {
            let users = match jail {
                DesiredJail::Running(_) | DesiredJail::OnDemand(_) | DesiredJail::Suspended => {
                    vec![DesiredHostUser::Present, DesiredHostUser::Absent]
                }
                DesiredJail::Deleted => vec![DesiredHostUser::Absent],
                DesiredJail::Unknown => vec![DesiredHostUser::Unknown],
            };
            for host_user in users {
                let desired = Desired { jail, host_user };
                all.push((desired, Actual::NEVER_RAN));
                for is in JAILS {
                    for hold in [Hold::Free, Hold::Held] {
                        for user in [HostUser::Absent, HostUser::Present] {
                            all.push((desired, Actual { jail: is, hold, ids: Ids::Given, host_user: user }));
                        }
                    }
                }
            }
        }
        all
    }

    /// The state after the warden has taken a step, or has finished the work that `bailiwickd` waits for.
    fn after(desired: Desired, mut actual: Actual, step: Next) -> Actual {
        match step.jail {
            JailStep::None | JailStep::Held | JailStep::Asleep => {}
            JailStep::Wait => actual.jail = Down,
            JailStep::Thaw => actual.jail = Running(actual.jail.access().expect("only a jail that runs is thawed")),
            JailStep::Start | JailStep::Replace => {
                let access = desired.jail.access().expect("only a jail that should run is started");
                (actual.jail, actual.hold, actual.ids) = (Running(access), Hold::Free, Ids::Given);
            }
            JailStep::Stop => actual.jail = Down,
        }
        match step.host_user {
            HostUserStep::None => {}
            HostUserStep::Make => {
                assert_eq!(actual.ids, Ids::Given, "a host user needs an id");
                actual.host_user = HostUser::Present;
            }
            HostUserStep::Remove => actual.host_user = HostUser::Absent,
        }
        actual
    }

    fn is_as_desired(desired: Desired, actual: &Actual) -> bool {
        let jail = match desired.jail {
            DesiredJail::Running(access) => {
                (actual.jail.access() == Some(access) && !matches!(actual.jail, Frozen(_, FrozenBy::Idle)))
                    || (actual.hold == Hold::Held && actual.jail.access().is_none())
            }
            DesiredJail::OnDemand(access) => actual.jail.access().is_none_or(|is| is == access),
            DesiredJail::Suspended | DesiredJail::Deleted => actual.jail.access().is_none(),
            DesiredJail::Unknown => true,
        };
        let host_user = match desired.host_user {
            DesiredHostUser::Present => actual.host_user == HostUser::Present || actual.ids == Ids::None,
            DesiredHostUser::Absent => actual.host_user == HostUser::Absent,
            DesiredHostUser::Unknown => true,
        };
        jail && host_user
    }

    #[test]
    fn steps_lead_to_the_desired_state_and_none_is_taken_twice() {
        for (desired, start) in all() {
            let (mut actual, mut jail_steps, mut user_steps) = (start, Vec::new(), Vec::new());
            loop {
                let step = next(desired, &actual);
                let is_over = matches!(step.jail, JailStep::None | JailStep::Held | JailStep::Asleep);
                if is_over && step.host_user == HostUserStep::None {
                    break;
                }
                if !is_over {
                    assert!(!jail_steps.contains(&step.jail), "{desired:?} {start:?}: {jail_steps:?} {step:?}");
                    jail_steps.push(step.jail);
                }
                if step.host_user != HostUserStep::None {
                    assert!(!user_steps.contains(&step.host_user), "{desired:?} {start:?}: {user_steps:?} {step:?}");
                    user_steps.push(step.host_user);
                }
                actual = after(desired, actual, step);
            }
            assert!(is_as_desired(desired, &actual), "{desired:?} {start:?} ends as {actual:?}");
            assert!(jail_steps.len() <= 2 && user_steps.len() <= 1, "{start:?}: {jail_steps:?} {user_steps:?}");
            if desired.jail == DesiredJail::Unknown {
                assert_eq!(actual, start, "nothing is touched");
            }
        }
    }

    #[test]
    fn what_an_operator_holds_down_is_never_started() {
        for (desired, actual) in all().into_iter().filter(|(_, actual)| actual.hold == Hold::Held) {
            let step = next(desired, &actual).jail;
            assert!(
                matches!(step, JailStep::None | JailStep::Held | JailStep::Stop | JailStep::Thaw),
                "{desired:?} {actual:?} {step:?}"
            );
        }
    }

    #[test]
    fn what_runs_on_demand_is_started_once_and_then_only_replaced() {
        for (desired, actual) in all() {
            let DesiredJail::OnDemand(access) = desired.jail else { continue };
            let golden = match (actual.ids, actual.jail.access(), actual.hold) {
                (Ids::None, ..) => JailStep::Start,
                (Ids::Given, None, Hold::Free) => JailStep::Asleep,
                (Ids::Given, None, Hold::Held) => JailStep::Held,
                (Ids::Given, Some(is), _) if is == access => JailStep::None,
                (Ids::Given, Some(_), Hold::Free) => JailStep::Replace,
                (Ids::Given, Some(_), Hold::Held) => JailStep::Stop,
            };
            assert_eq!(next(desired, &actual).jail, golden, "{desired:?} {actual:?}");
        }
    }

    #[test]
    fn an_idle_freeze_ends_when_the_jail_no_longer_runs_on_demand_and_an_operators_never_does() {
        for (desired, actual) in all() {
            let step = next(desired, &actual).jail;
            match (desired.jail, actual.jail) {
                (DesiredJail::Running(access), Frozen(is, FrozenBy::Idle)) if is == access => {
                    assert_eq!(step, JailStep::Thaw, "{actual:?}");
                }
                _ => assert_ne!(step, JailStep::Thaw, "{desired:?} {actual:?}"),
            }
        }
    }

    #[test]
    fn who_may_sleep_has_a_socket_for_each_service() {
        use bailiwick_policy::{Pass, Run, Service, ServiceSocket};
        let files = [
            (std::path::PathBuf::from("bailiwick.toml"), String::new()),
            ("plans.d/p.toml".into(), String::new()),
            (
                "tenants.d/alice.toml".into(),
                "plan = \"p\"\ndoors = [\"sftp\"]\nsuspended_doors = [\"sftp\"]\n".to_owned(),
            ),
        ];
        let reading = bailiwick_policy::parse(&files);
        assert_eq!(reading.diagnostics, []);
        let mut alice = reading.policy.expect("good").tenants.into_values().next().expect("one");
        let jail = |tenant: &Tenant| desired(Declaration::Known(tenant)).jail;
        assert_eq!((sleep(&alice), jail(&alice)), (Err(StaysAwake::NoSleep), DesiredJail::Running(ReadWrite)));
        let when = Sleep { after: bailiwick_types::Period(900), freeze_after: None };
        alice.settings.sleep = Some(when);
        assert_eq!((sleep(&alice), jail(&alice)), (Ok(when), DesiredJail::OnDemand(ReadWrite)));
        let name = |text: &str| text.parse::<ServiceName>().expect("a name");
        let socket =
            ServiceSocket { name: "web".parse().expect("a name"), pass: Pass::Fd, backlog: 128, entries: None };
        let files = Service { sockets: vec![socket], ..Service::new(name("www"), Run::Files("/srv".to_owned())) };
        let worker = Service::new(name("worker"), Run::Command(vec!["/bin/true".to_owned()]));
        alice.settings.services = vec![files.clone()];
        assert_eq!(sleep(&alice), Ok(when));
        alice.settings.services = vec![files, worker];
        assert_eq!(
            (sleep(&alice), jail(&alice)),
            (Err(StaysAwake::NoSocket(name("worker"))), DesiredJail::Running(ReadWrite))
        );
        alice.settings.services.pop();
        alice.state = Declared::Suspended { reason: None };
        assert_eq!((sleep(&alice), jail(&alice)), (Err(StaysAwake::Suspended), DesiredJail::Running(ReadOnly)));
    }

    #[test]
    fn the_word_tells_what_the_jail_is_and_of_one_that_is_down_why() {
        let free = Actual { ids: Ids::Given, ..Actual::NEVER_RAN };
        let (active, readable) = (DesiredJail::Running(ReadWrite), DesiredJail::Running(ReadOnly));
        let on_demand = DesiredJail::OnDemand(ReadWrite);
        assert_eq!(tenant_state(on_demand, &Actual::NEVER_RAN), TenantState::Down);
        for (desired, jail, hold, golden) in [
            (active, Down, Hold::Free, TenantState::Down),
            (active, Preparing, Hold::Free, TenantState::Down),
            (active, Down, Hold::Held, TenantState::Stopped),
            (active, Clearing, Hold::Held, TenantState::Clearing),
            (on_demand, Down, Hold::Free, TenantState::Asleep),
            (on_demand, Down, Hold::Held, TenantState::Stopped),
            (on_demand, Preparing, Hold::Free, TenantState::Down),
            (on_demand, Clearing, Hold::Free, TenantState::Clearing),
            (on_demand, Running(ReadWrite), Hold::Free, TenantState::Running),
            (active, Running(ReadWrite), Hold::Free, TenantState::Running),
            (active, Silent(ReadWrite), Hold::Free, TenantState::Unresponsive),
            (active, Frozen(ReadOnly, FrozenBy::Operator), Hold::Free, TenantState::Frozen),
            (on_demand, Frozen(ReadWrite, FrozenBy::Idle), Hold::Free, TenantState::Frozen),
            (readable, Down, Hold::Held, TenantState::Suspended),
            (readable, Running(ReadOnly), Hold::Free, TenantState::SuspendedReadOnly),
            (DesiredJail::Suspended, Running(ReadWrite), Hold::Free, TenantState::Running),
            (DesiredJail::Suspended, Down, Hold::Free, TenantState::Suspended),
            (DesiredJail::Deleted, Down, Hold::Free, TenantState::Deleted),
            (DesiredJail::Deleted, Running(ReadWrite), Hold::Free, TenantState::Running),
            (DesiredJail::Unknown, Down, Hold::Free, TenantState::Invalid),
            (DesiredJail::Unknown, Silent(ReadOnly), Hold::Free, TenantState::Unresponsive),
        ] {
            assert_eq!(tenant_state(desired, &Actual { jail, hold, ..free }), golden, "{desired:?} {jail:?} {hold:?}");
        }
    }

    #[test]
    fn a_second_look_is_newer_and_finds_no_jail_where_there_was_none() {
        for jail in JAILS {
            let (gone, other) = (jail.seen_again(None), jail.seen_again(Some(ReadOnly)));
            if jail.access().is_some() {
                assert_eq!((gone, other.access()), (Down, Some(ReadOnly)));
            } else {
                assert_eq!((gone, other), (jail, jail));
            }
        }
    }
}
