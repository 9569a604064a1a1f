//! The limits as one table: the key of each, its bounds, and how it is read and written.

use crate::diagnostic::Problem;
use crate::reader::{Report, Span, Table, expected, number, parsed};
use bailiwick_types::{Bound, ByteRate, ByteSize, Count, CpuShare, LimitKey, Limits, Period, SoftHard};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use toml::de::DeValue;

/// One limit in the table.
#[derive(Debug)]
struct Row {
    key: LimitKey,
    read: fn(&DeValue<'_>, &mut Limits) -> Result<(), Problem>,
    write: fn(&Limits) -> String,
    copy: fn(&Limits, &mut Limits),
}

/// The type of a limit's value.
pub(crate) trait Setting: Copy {
    /// The type of the smallest and the largest allowed value.
    type Unit: PartialOrd + Display;
    fn read(value: &DeValue<'_>) -> Result<Self, Problem>;
    /// The text of the value in a file, with its quotes.
    fn write(&self) -> String;
    /// The smallest and the largest amount in the value; `None` for "unlimited".
    fn ends(&self) -> Option<(Self::Unit, Self::Unit)>;
}

/// A [`Setting`] that is a text with a unit.
trait Quantity: Setting<Unit = Self> + FromStr<Err = bailiwick_types::ParseQuantityError> + PartialOrd + Display {
    const EXPECTED: &str;
}

macro_rules! quantities {
    ($($type:ty = $expected:literal),* $(,)?) => {$(
        impl Quantity for $type {
            const EXPECTED: &str = $expected;
        }
        impl Setting for $type {
            type Unit = Self;
            fn read(value: &DeValue<'_>) -> Result<Self, Problem> {
                quantity(value, $expected)?;
                parsed(value)
            }
            fn write(&self) -> String {
                format!("\"{self}\"")
            }
            fn ends(&self) -> Option<(Self, Self)> {
                Some((*self, *self))
            }
        }
    )*};
}

quantities! {
    CpuShare = "a share of one core such as \"150%\"",
    ByteSize = "a size such as \"512M\"",
    Count = "a count such as \"200k\"",
    Period = "a length of time such as \"7d\"",
    ByteRate = "a rate such as \"20M\"",
}

macro_rules! numbers {
    ($($type:ty),*) => {$(
        impl Setting for $type {
            type Unit = Self;
            fn read(value: &DeValue<'_>) -> Result<Self, Problem> {
                number(value)
            }
            fn write(&self) -> String {
                self.to_string()
            }
            fn ends(&self) -> Option<(Self, Self)> {
                Some((*self, *self))
            }
        }
    )*};
}

numbers!(u64, u32);

impl<T: Quantity> Setting for SoftHard<T> {
    type Unit = T;
    fn read(value: &DeValue<'_>) -> Result<Self, Problem> {
        quantity(value, T::EXPECTED)?;
        parsed(value)
    }
    fn write(&self) -> String {
        format!("\"{self}\"")
    }
    fn ends(&self) -> Option<(T, T)> {
        Some((self.soft, self.hard))
    }
}

impl<T: Setting> Setting for Bound<T> {
    type Unit = T::Unit;
    fn read(value: &DeValue<'_>) -> Result<Self, Problem> {
        if value.as_str() == Some("unlimited") { Ok(Self::Unlimited) } else { T::read(value).map(Self::At) }
    }
    fn write(&self) -> String {
        self.value().map_or_else(|| "\"unlimited\"".to_owned(), |value| value.write())
    }
    fn ends(&self) -> Option<(T::Unit, T::Unit)> {
        self.value()?.ends()
    }
}

/// Checks that a value is a text. Parsing it comes later.
fn quantity(value: &DeValue<'_>, what: &str) -> Result<(), Problem> {
    match value {
        DeValue::String(_) => Ok(()),
        DeValue::Integer(_) | DeValue::Float(_) => Err(expected(what, value).hint("write it in quotes, with its unit")),
        other => Err(expected(what, other)),
    }
}

/// Reads a value between two ends. `why` is the hint for one outside.
pub(crate) fn bounded<S: Setting>(value: &DeValue<'_>, min: S::Unit, max: S::Unit, why: &str) -> Result<S, Problem> {
    let setting = S::read(value).map_err(|problem| match value.as_str() {
        Some("unlimited") => Problem::new("\"unlimited\" is not possible here").hint(why),
        _ => problem,
    })?;
    match setting.ends() {
        Some((low, _)) if low < min => Err(Problem::new(format!("the value is below {min}")).hint(why)),
        Some((_, high)) if high > max => Err(Problem::new(format!("the value is above {max}")).hint(why)),
        _ => Ok(setting),
    }
}

macro_rules! rows {
    ($($key:ident $field:ident: $min:expr, $max:expr, $why:expr;)*) => {
        /// Every limit, in the order in which it is written.
        const ROWS: &[Row] = &[$(Row {
            key: LimitKey::$key,
            read: |value, limits| {
                limits.$field = bounded(value, $min, $max, $why)?;
                Ok(())
            },
            write: |limits| limits.$field.write(),
            copy: |from, to| to.$field = from.$field,
        }),*];

        /// The keys of [`ROWS`].
        pub(crate) const KEYS: &[&str] = &[$(LimitKey::$key.word()),*];
    };
}

const fn share(per_cent: u64) -> CpuShare {
    CpuShare(per_cent * 1000)
}

/// The largest size. No machine has as much. Beyond it the arithmetic of the kernel may overflow, and "unlimited" says the same.
const MAX_SIZE: ByteSize = ByteSize(1 << 50);
/// The largest share of cores: more cores than the kernel can be built for (`CONFIG_NR_CPUS`).
const MAX_CPU: CpuShare = share(1_000_000);
/// The largest count, for the same reasons.
const MAX_COUNT: Count = Count(1_000_000_000_000);

/// The bounds of throughput. Less would delay everybody who waits for the same disk.
const IO: &str = "bytes a second, from 64K, or \"unlimited\"";

/// The bounds of the sessions through one door.
const DOOR: &str = "from 1 to 65536, or \"unlimited\"; to close the door leave it out of \"doors\"";

rows! {
    // cpu.max needs at least a millisecond in its period of 100 ms.
    Cpu cpu: share(1), MAX_CPU, "a share of one core, from 1%, or \"unlimited\"";
    CpuBurst cpu_burst: share(0), MAX_CPU, "at most the value of \"cpu\"";
    CpuWeight cpu_weight: 1, 10_000, "from 1 to 10000; 100 is the norm";
    Memory memory: ByteSize(16 << 20), MAX_SIZE, "from 16M, which a jail needs for its init and a shell, or \"unlimited\"";
    MemoryHigh memory_high: ByteSize(16 << 20), MAX_SIZE, "from 16M, below which a jail is throttled all the time, or \"unlimited\"";
    Swap swap: ByteSize(0), MAX_SIZE, "\"0\" for none, or \"unlimited\"";
    // PID_MAX_LIMIT is the most that the kernel can number.
    Tasks tasks: 8, 4_194_304, "from 8, which a jail needs for its init and one session, or \"unlimited\"";
    IoRead io_read: ByteSize(64 << 10), MAX_SIZE, IO;
    IoWrite io_write: ByteSize(64 << 10), MAX_SIZE, IO;
    IopsRead iops_read: Count(10), MAX_COUNT, "operations a second, from 10, or \"unlimited\"";
    IopsWrite iops_write: Count(10), MAX_COUNT, "operations a second, from 10, or \"unlimited\"";
    IoWeight io_weight: 1, 10_000, "from 1 to 10000; 100 is the norm";
    // A quota of zero blocks or inodes means "no quota" to the kernel (quotactl(2)).
    Disk disk: ByteSize(1 << 20), MAX_SIZE, "from 1M, for the soft limit too, or \"unlimited\"";
    DiskGrace disk_grace: Period(60), Period(3650 * 86_400), "from 1m to 3650d";
    Inodes inodes: Count(100), MAX_COUNT, "from 100, for the soft limit too, or \"unlimited\"";
    Sessions sessions: 1, 65_536, "from 1 to 65536, or \"unlimited\"; to close every way in write doors = []";
    SessionsExec sessions_exec: 1, 65_536, DOOR;
    SessionsSsh sessions_ssh: 1, 65_536, DOOR;
    SessionsSftp sessions_sftp: 1, 65_536, DOOR;
    SessionsFtp sessions_ftp: 1, 65_536, DOOR;
    SessionsCron sessions_cron: 1, 65_536, DOOR;
    OpenFiles open_files: 64, 1_048_576, "from 64, which a shell needs, to 1048576, which is the most that the kernel allows";
    Tmp tmp: ByteSize(64 << 10), MAX_SIZE, "from 64K to 1024T";
    Shm shm: ByteSize(64 << 10), MAX_SIZE, "from 64K to 1024T";
}

/// The limits that one file sets, and their places in it.
#[derive(Debug)]
pub(crate) struct Declared {
    values: Limits,
    places: BTreeMap<LimitKey, Span>,
    unreadable: Vec<LimitKey>,
}

impl Declared {
    /// The limits of a file without any.
    pub(crate) fn nothing() -> Self {
        Self { values: Limits::default(), places: BTreeMap::new(), unreadable: Vec::new() }
    }

    /// Reads `[limits]`.
    pub(crate) fn read(report: &mut Report<'_>, table: &Table<'_, '_>) -> Self {
        let mut declared = Self::nothing();
        for row in ROWS {
            let Some(value) = table.get(row.key.word()) else { continue };
            // Programs write this word into a tenant's file. It means the same as a missing line.
            if value.get_ref().as_str() == Some("inherit") {
                continue;
            }
            let read = (row.read)(value.get_ref(), &mut declared.values);
            match report.accept(value.span(), read) {
                Some(_) => drop(declared.places.insert(row.key, value.span())),
                None => declared.unreadable.push(row.key),
            }
        }
        declared
    }

    /// Replaces in `limits` those that this file sets, and checks pairs of limits. Only pairs with a limit of this file are
    /// checked. The others were checked in the file that sets them.
    pub(crate) fn apply(&self, report: &mut Report<'_>, limits: &mut Limits) {
        for row in ROWS.iter().filter(|row| self.places.contains_key(&row.key)) {
            (row.copy)(&self.values, limits);
        }
        self.order(
            report,
            (LimitKey::MemoryHigh, limits.memory_high),
            (LimitKey::Memory, limits.memory),
            "so it would never be reached",
        );
        self.order(
            report,
            (LimitKey::CpuBurst, limits.cpu_burst),
            (LimitKey::Cpu, limits.cpu),
            "which the kernel refuses",
        );
    }

    /// Reports a problem when the first limit is above the second.
    fn order<T: PartialOrd + Display + Copy>(
        &self,
        report: &mut Report<'_>,
        (lower, low): (LimitKey, Bound<T>),
        (upper, high): (LimitKey, Bound<T>),
        why: &str,
    ) {
        let (Bound::At(low), Bound::At(high)) = (low, high) else { return };
        let Some(place) = self.places.get(&lower).or_else(|| self.places.get(&upper)) else { return };
        // In place of an unreadable value there is an inherited one, which the operator did not write here.
        if low > high && ![lower, upper].iter().any(|key| self.unreadable.contains(key)) {
            report.error(place.clone(), || {
                let problem = Problem::new(format!("\"{lower}\" ({low}) is above \"{upper}\" ({high}), {why}"));
                match [lower, upper].iter().find(|key| !self.places.contains_key(key)) {
                    Some(inherited) => problem.hint(format!("\"{inherited}\" is inherited; set it in this file too")),
                    None => problem,
                }
            });
        }
    }
}

/// Writes `[limits]` with every key.
pub(crate) fn write(limits: &Limits) -> String {
    let mut text = "\n[limits]\n".to_owned();
    for row in ROWS {
        text.push_str(&format!("{} = {}\n", row.key, (row.write)(limits)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_limits_has_a_row() {
        let toml::Value::Table(fields) = toml::Value::try_from(Limits::default()).expect("serialises") else {
            panic!("a structure is a table");
        };
        let mut keys = KEYS.to_vec();
        keys.sort_unstable();
        assert_eq!(keys, fields.keys().map(String::as_str).collect::<Vec<_>>());
        // The table of the types has the same rows, and writes each value as a file does.
        let limits = Limits { disk: "10G:11G".parse().map(Bound::At).expect("a pair"), ..Limits::default() };
        for key in LimitKey::ALL {
            let row = ROWS.iter().find(|row| row.key == key);
            let written = row.map(|row| (row.write)(&limits).trim_matches('"').to_owned());
            assert_eq!(limits.value(key).map(|value| key.in_words(value)), written, "{key}");
        }
    }

    #[test]
    fn every_default_is_acceptable_and_written_as_it_is_read() {
        let written = write(&Limits::default());
        for row in ROWS {
            let line = written.lines().find(|line| line.starts_with(&format!("{} = ", row.key))).expect("a line");
            let value = DeValue::parse(line.split_once(" = ").expect("a value").1).expect("TOML");
            let mut read = Limits::default();
            (row.read)(value.get_ref(), &mut read).expect("acceptable");
            assert_eq!(read, Limits::default(), "{}", row.key);
        }
    }

    #[test]
    fn words_and_ends() {
        let try_row = |key: &str, toml: &str| {
            let row = ROWS.iter().find(|row| row.key.word() == key).expect("known");
            (row.read)(DeValue::parse(toml).expect("TOML").get_ref(), &mut Limits::default())
        };
        for (key, good) in [
            ("cpu", "\"1%\""),
            ("cpu", "\"unlimited\""),
            ("memory", "\"16M\""),
            ("tasks", "8"),
            ("tasks", "\"unlimited\""),
            ("open_files", "1048576"),
            ("disk", "\"1G:2G\""),
            ("io_weight", "10000"),
        ] {
            assert_eq!(try_row(key, good), Ok(()), "{key} = {good}");
        }
        for (key, bad) in [
            ("cpu", "\"0%\""),
            ("cpu", "\"0.999%\""),
            ("cpu", "100"),
            ("memory", "\"15M\""),
            ("memory", "\"1MB\""),
            ("memory", "\"1P\""),
            ("memory", "\"2048T\""),
            ("memory", "true"),
            ("tasks", "7"),
            ("tasks", "-1"),
            ("tasks", "99999999999999999999999999999999999999999999"),
            ("tasks", "\"many\""),
            ("open_files", "\"unlimited\""),
            ("open_files", "63"),
            ("disk", "\"2G:1G\""),
            ("disk", "\"0:1G\""),
            ("io_weight", "0"),
            ("io_weight", "10001"),
            ("sessions", "0"),
            ("sessions_ssh", "0"),
            ("tmp", "\"unlimited\""),
            ("disk_grace", "\"0s\""),
        ] {
            assert!(try_row(key, bad).is_err(), "{key} = {bad}");
        }
    }
}
