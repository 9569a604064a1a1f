//! The system calls of a jail: a table with a reason for every row, and the filter that is made from it (`seccomp(2)`).
//!
//! What this module gets wrong is open to every tenant, so the table is an allow-list: calls of another architecture
//! end the process, a number that the table does not know does not exist (`ENOSYS`, x32 numbers too), and arguments
//! are compared by the 32 bits that the kernel itself reads. Arguments are looked at in a handful of calls only: the
//! kernel remembers which numbers are allowed whatever their arguments, and never runs the filter for those.

mod calls;
mod program;

pub use program::{Instruction, SeccompData, evaluate};

use bailiwick_types::Profile;
use linux_raw_sys::errno::ENOSYS;

#[cfg(not(target_arch = "x86_64"))]
compile_error!("the system-call table is written for x86_64: another architecture needs numbers and checks of its own");

/// `AUDIT_ARCH_X86_64` of `linux/audit.h`: how the kernel calls the only system-call interface that a jail has.
pub const ARCHITECTURE: u32 = 0xC000_003E;

/// The bit that marks a number as one of the x32 interface. The table must stay below it.
const X32_BIT: u32 = 0x4000_0000;

/// What becomes of a number that has no row.
const UNKNOWN: Rule = Rule::Always(Verdict::Errno(ENOSYS as u16));

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It is made.
    Allow,
    /// It is not made and returns this error; 0 for success.
    Errno(u16),
    /// It is not made and ends the process.
    Kill,
}

/// How the verdict on a call is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Whatever its arguments.
    Always(Verdict),
    /// By an argument.
    Check(&'static Check),
}

/// A question to one argument: is it, cut to some bits, one of these values?
#[derive(Debug, PartialEq, Eq)]
pub struct Check {
    /// Which argument, from 0 to 5. Its upper 32 bits are not looked at, as the kernel does not look at them either.
    pub argument: u8,
    /// The bits that count.
    pub mask: u32,
    /// The values.
    pub values: &'static [u32],
    /// If it is.
    pub then: Rule,
    /// If it is not.
    pub otherwise: Rule,
}

/// One call in one profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: &'static str,
    /// What is done with it.
    pub rule: Rule,
    /// Why.
    pub remark: &'static str,
}

impl Rule {
    /// The verdict on a call with these arguments.
    #[must_use]
    pub fn verdict(self, arguments: &[u64; 6]) -> Verdict {
        let mut rule = self;
        loop {
            match rule {
                Rule::Always(verdict) => return verdict,
                Rule::Check(check) => {
                    let argument = arguments[usize::from(check.argument)] & u64::from(check.mask);
                    let held = check.values.iter().any(|value| u64::from(*value) == argument);
                    rule = if held { check.then } else { check.otherwise };
                }
            }
        }
    }
}

/// Every call that is known, in the order of the numbers.
#[must_use]
pub fn table(profile: Profile) -> Vec<Row> {
    let mut rows: Vec<Row> = calls::GROUPS
        .iter()
        .flat_map(|group| {
            let rule = match profile {
                Profile::Web | Profile::Shell => group.tight,
                Profile::System => group.system,
            };
            group.calls.iter().map(move |&(number, name)| Row { number, name, rule, remark: group.remark })
        })
        .collect();
    rows.sort_unstable_by_key(|row| row.number);
    rows
}

/// The filter of a profile, for the kernel.
#[must_use]
pub fn filter(profile: Profile) -> Vec<Instruction> {
    let rules: Vec<(u32, Rule)> = table(profile).iter().map(|row| (row.number, row.rule)).collect();
    program::compile(&rules)
}

/// The name of a call, for messages.
#[must_use]
pub fn name(number: u32) -> Option<&'static str> {
    calls::GROUPS.iter().flat_map(|group| group.calls).find(|call| call.0 == number).map(|call| call.1)
}
