//! The journal of a setup: what is planned, what was done, and what was there before.
//!
//! It is outside the pool, so that it is there when the pool is not. A step is noted before it begins. A copy of each file that a
//! step replaces is kept with it, and the digest of what the step wrote.
//!
//! Danger: what it says is carried out as root. Only root can read or write it, and a journal of another version is refused.

use crate::machine::{Machine, digest};
use crate::options::Options;
use crate::step::{Step, Work};
use bailiwick_proto::Failure;
use bailiwick_types::ExitStatus;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Where the journal is.
pub(crate) const FOLDER: &str = "/var/lib/bailiwick-setup";
const VERSION: u32 = 1;

/// The journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Journal {
    version: u32,
    /// What the operator chose for the plan below.
    pub(crate) options: Options,
    /// A plan that is not carried out to its end.
    pub(crate) unfinished: Vec<Step>,
    /// What was done, in order.
    pub(crate) entries: Vec<Entry>,
    /// Whether it is being taken back.
    pub(crate) is_undoing: bool,
}

/// A step that has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// The step as it was carried out last.
    pub(crate) step: Step,
    /// What was there before the first time.
    pub(crate) before: Before,
    /// Whether it was carried out to its end.
    pub(crate) is_done: bool,
}

/// What was there before a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Before {
    /// Nothing that must be put back.
    Nothing,
    /// A file.
    File {
        /// The name of its copy.
        copy: String,
        /// Its digest.
        digest: String,
        /// Its permission bits.
        mode: u32,
    },
    /// Units that were enabled, and whether they were active.
    Units {
        /// Those that were enabled.
        enabled: Vec<String>,
        /// Whether they were active.
        is_active: bool,
    },
}

impl Journal {
    /// Reads the journal; an empty one when there is none.
    pub(crate) fn read(machine: &Machine<'_>) -> Result<Self, Failure> {
        let path = path();
        let Some(bytes) = machine.read(&path)? else { return Ok(Self { version: VERSION, ..Self::default() }) };
        let invalid = |why: String| {
            let path = path.display();
            Failure::of(ExitStatus::Failed, format!("cannot read \"{path}\", the journal of `bailiwick setup`: {why}"))
        };
        let journal: Self = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        if journal.version != VERSION {
            return Err(invalid(format!("it is of version {}, and this program knows {VERSION}", journal.version)));
        }
        Ok(journal)
    }

    /// Writes the journal, so that a power cut does not lose it.
    pub(crate) fn write(&self, machine: &mut Machine<'_>) -> Result<(), Failure> {
        let mut text = serde_json::to_vec_pretty(self).expect("a journal has string keys and no fallible parts");
        text.push(b'\n');
        if machine.mode(Path::new(FOLDER)) != Some(0o700) {
            machine.make_folder(Path::new(FOLDER), 0o700)?;
        }
        machine.write(&path(), &text, 0o600)
    }

    /// Removes the journal, once nothing is left to take back.
    pub(crate) fn remove(machine: &mut Machine<'_>) -> Result<(), Failure> {
        machine.remove_folder(Path::new(FOLDER))
    }

    /// Whether nothing was ever done, or all was taken back.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.unfinished.is_empty()
    }

    pub(crate) fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.step.name == name)
    }

    /// Notes that a step begins. What was there before its first time stays noted.
    pub(crate) fn begin(&mut self, machine: &mut Machine<'_>, step: &Step, before: Before) -> Result<(), Failure> {
        match self.entries.iter_mut().find(|entry| entry.step.name == step.name) {
            Some(entry) => {
                entry.step = step.clone();
                entry.is_done = false;
            }
            None => self.entries.push(Entry { step: step.clone(), before, is_done: false }),
        }
        self.write(machine)
    }

    /// Notes that a step was carried out.
    pub(crate) fn end(&mut self, machine: &mut Machine<'_>, name: &str) -> Result<(), Failure> {
        self.entries.iter_mut().filter(|entry| entry.step.name == name).for_each(|entry| entry.is_done = true);
        self.write(machine)
    }

    /// Keeps a copy of a file that a step is about to replace.
    pub(crate) fn keep_copy(machine: &mut Machine<'_>, step: &Step, file: &Path) -> Result<Before, Failure> {
        let Some(content) = machine.read(file)? else { return Ok(Before::Nothing) };
        let copy = format!("before-{}", step.name);
        let mode = machine.mode(file).unwrap_or(0o644);
        machine.make_folder(Path::new(FOLDER), 0o700)?;
        machine.write(&copy_path(&copy), &content, 0o600)?;
        Ok(Before::File { copy, digest: digest(&content), mode })
    }

    /// The pool that this setup made or is making: its device, its file if it has one, and its file system.
    pub(crate) fn file_system(&self) -> Option<&Work> {
        self.entries.iter().map(|entry| &entry.step.work).find(|work| matches!(work, Work::FileSystem { .. }))
    }

    /// The size of the pool file that this setup made.
    pub(crate) fn pool_size(&self) -> Option<u64> {
        self.entries.iter().find_map(|entry| match entry.step.work {
            Work::PoolFile { size, .. } => Some(size),
            _ => None,
        })
    }
}

fn path() -> PathBuf {
    Path::new(FOLDER).join("journal.json")
}

/// Where a copy is.
pub(crate) fn copy_path(copy: &str) -> PathBuf {
    Path::new(FOLDER).join(copy)
}
