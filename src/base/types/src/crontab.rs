//! A tenant's own crontab in the format of `crontab(5)`: each job has five fields or a word, and a command. A variable
//! applies to the jobs after it.
//!
//! Danger: the tenant writes the crontab and the host reads it. Its size, jobs and variables are bounded. A bad line is
//! reported and skipped; the other lines still count. Nothing in it runs outside the jail.

use crate::{TimerName, When};
use std::collections::BTreeSet;

/// The size of the largest crontab that is read, in bytes.
pub const MAX_CRONTAB: usize = 16 << 10;
/// The limit of jobs in a crontab.
const MAX_JOBS: usize = 64;
/// The limit of variables before a job.
const MAX_VARIABLES: usize = 32;
/// The limit of the bytes of all variables together. Each job gets all variables before it.
const MAX_VARIABLE_BYTES: usize = 2 << 10;
/// The number of bad lines after which the parser stops.
const MAX_FAULTS: usize = 16;
/// The prefix of the names of crontab jobs. No `[[timer]]` can have such a name.
pub const CRONTAB_JOB: &str = "crontab";

/// The content of a crontab.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Crontab {
    /// The jobs, in the order of the file.
    pub jobs: Vec<CrontabJob>,
    /// The lines that were skipped.
    pub faults: Vec<CrontabFault>,
}

/// A line with a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrontabJob {
    /// The name of the job. It is derived from the text of the line, so it stays the same when lines move.
    pub name: TimerName,
    /// When the job runs.
    pub when: When,
    /// The program that runs the command: the variable `SHELL`.
    pub shell: String,
    /// The command, for the shell.
    pub command: String,
    /// The standard input of the command: everything after the first `%`.
    pub input: String,
    /// The variables that are set before the job.
    pub variables: Vec<(String, String)>,
}

/// A line that was skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrontabFault {
    /// The number of the line, from 1; `None` for the whole file.
    pub line: Option<usize>,
    /// The reason.
    pub why: String,
}

impl Crontab {
    /// Parses a crontab. Each line that cannot be parsed becomes a [`CrontabFault`].
    #[must_use]
    pub fn read(text: &str) -> Self {
        let mut crontab = Self::default();
        let mut variables: Vec<(String, String)> = Vec::new();
        let mut names = BTreeSet::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let read = match variable(line) {
                Some((name, value)) => set(&mut variables, name, value),
                None if crontab.jobs.len() >= MAX_JOBS => Err(format!("there are {MAX_JOBS} jobs before it, the most")),
                None => match job(line, &variables) {
                    Ok(job) if !names.insert(job.name.clone()) => Err("it stands there twice".to_owned()),
                    job => job.map(|job| crontab.jobs.push(job)),
                },
            };
            let Err(why) = read else { continue };
            // The number of bad lines is bounded, because the parser needs long to find that a schedule is never due.
            let last = crontab.faults.len() + 1 == MAX_FAULTS;
            let why = if last { format!("{why}; nothing below it is read") } else { why };
            crontab.faults.push(CrontabFault { line: Some(number), why });
            if last {
                break;
            }
        }
        crontab
    }
}

/// Parses `NAME = value`. The value may have quotes.
fn variable(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once('=')?;
    let (name, value) = (name.trim_end(), value.trim());
    let first = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    if !first || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return None;
    }
    let unquoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    Some((name, unquoted.unwrap_or(value)))
}

fn set(variables: &mut Vec<(String, String)>, name: &str, value: &str) -> Result<(), String> {
    match name {
        // The output goes to a file, and no mail is sent.
        "MAILTO" | "MAILFROM" => return Ok(()),
        "LOGNAME" | "USER" => return Err(format!("{name} is who it is and cannot be set")),
        "CRON_TZ" => return Err("times are by the host's clock; CRON_TZ cannot be set".to_owned()),
        "SHELL" if !value.starts_with('/') => return Err("SHELL is the whole path of a program".to_owned()),
        _ => {}
    }
    if value.contains('\0') {
        return Err("the value holds a NUL character".to_owned());
    }
    variables.retain(|(known, _)| known != name);
    let bytes: usize = variables.iter().map(|(name, value)| name.len() + value.len()).sum();
    if variables.len() >= MAX_VARIABLES || bytes + name.len() + value.len() > MAX_VARIABLE_BYTES {
        return Err(format!("there may be {MAX_VARIABLES} variables of together {MAX_VARIABLE_BYTES} bytes"));
    }
    variables.push((name.to_owned(), value.to_owned()));
    Ok(())
}

fn job(line: &str, variables: &[(String, String)]) -> Result<CrontabJob, String> {
    let fields = if line.starts_with('@') { 1 } else { 5 };
    let (when, command) =
        split(line, fields).ok_or("five fields and a command are needed: MINUTE HOUR DAY MONTH WEEKDAY COMMAND")?;
    let when = when.parse().map_err(|error| format!("{error}"))?;
    let (command, input) = parts(command);
    if command.is_empty() || command.contains('\0') || input.contains('\0') {
        return Err("there is no command, or a NUL character in it".to_owned());
    }
    let name = format!("{CRONTAB_JOB}-{:08x}", digest(line)).parse().map_err(|error| format!("{error}"))?;
    let shell = variables.iter().find(|(name, _)| name == "SHELL").map_or("/bin/sh", |(_, value)| value);
    let (shell, variables) = (shell.to_owned(), variables.to_vec());
    Ok(CrontabJob { name, when, shell, command, input, variables })
}

/// The first `words` words, joined with single spaces, and the rest of the line.
fn split(line: &str, words: usize) -> Option<(String, &str)> {
    let mut rest = line;
    let mut front = Vec::new();
    for _ in 0..words {
        let (word, more) = rest.split_once([' ', '\t'])?;
        front.push(word);
        rest = more.trim_start();
    }
    Some((front.join(" "), rest))
}

/// Splits a line into the command before the first `%` and its standard input. In the input every other `%` is a line
/// break. `\%` is a `%` in both.
fn parts(text: &str) -> (String, String) {
    let (mut command, mut input): (String, Option<String>) = (String::new(), None);
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let letter = match letter {
            '\\' if letters.peek() == Some(&'%') => letters.next().unwrap_or(letter),
            '%' if input.is_none() => {
                input = Some(String::new());
                continue;
            }
            '%' => '\n',
            letter => letter,
        };
        input.as_mut().unwrap_or(&mut command).push(letter);
    }
    let input = input.map(|input| if input.ends_with('\n') { input } else { input + "\n" });
    (command.trim_end().to_owned(), input.unwrap_or_default())
}

/// The 32-bit FNV-1a hash. It is enough for names that must differ within one tenant only.
fn digest(line: &str) -> u32 {
    line.bytes().fold(0x811c_9dc5, |digest, byte| (digest ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String, String)> {
        let crontab = Crontab::read(text);
        assert_eq!(crontab.faults, [], "{text}");
        crontab.jobs.into_iter().map(|job| (job.when.to_string(), job.command, job.input)).collect()
    }

    fn faults(text: &str) -> Vec<(usize, String)> {
        Crontab::read(text).faults.into_iter().map(|fault| (fault.line.expect("a line"), fault.why)).collect()
    }

    #[test]
    fn lines_as_crontab_has_them() {
        let text = "# a comment\n\n  */5 \t* * *  mon-fri  /usr/bin/true  --x   y \n@daily cd ~ && ./a b=c\n0 3 1 1 * echo 5\\% of it\n1 1 * * * cat%one%two\\%\n2 2 * * * a%\n@Reboot  a start";
        let row = |when: &str, command: &str, input: &str| (when.to_owned(), command.to_owned(), input.to_owned());
        let golden = [
            row("*/5 * * * mon-fri", "/usr/bin/true  --x   y", ""),
            row("@daily", "cd ~ && ./a b=c", ""),
            row("0 3 1 1 *", "echo 5% of it", ""),
            row("1 1 * * *", "cat", "one\ntwo%\n"),
            row("2 2 * * *", "a", "\n"),
            row("@reboot", "a start", ""),
        ];
        assert_eq!(read(text), golden);
    }

    #[test]
    fn variables_hold_for_what_follows() {
        let text = "MAILTO=me@example.org\n* * * * * a\nSHELL = /bin/bash\nX=' a b '\nX2=\"\"\n* * * * * b\nX=c d\n* * * * * c\n";
        let crontab = Crontab::read(text);
        assert_eq!(crontab.faults, []);
        let shells: Vec<_> = crontab.jobs.iter().map(|job| job.shell.as_str()).collect();
        assert_eq!(shells, ["/bin/sh", "/bin/bash", "/bin/bash"]);
        let pair = |(name, value): &(String, String)| format!("{name}={value}");
        let variables: Vec<Vec<String>> =
            crontab.jobs.iter().map(|job| job.variables.iter().map(pair).collect()).collect();
        assert_eq!(variables[0], [""; 0]);
        assert_eq!(variables[1], ["SHELL=/bin/bash", "X= a b ", "X2="]);
        assert_eq!(variables[2], ["SHELL=/bin/bash", "X2=", "X=c d"]);
    }

    #[test]
    fn a_bad_line_is_told_and_costs_only_itself() {
        let text = "25 * * * a b c\nnonsense\n* * * * *\n@reboot\n@never x\nSHELL=sh\nUSER=root\nCRON_TZ=UTC\n0 0 31 2 * x\n* * * * * good\n* * * * * good\n* * * * * x\0y\n*-*-* 03:15 a b c d\n";
        let lines: Vec<usize> = faults(text).into_iter().map(|(line, _)| line).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13]);
        assert_eq!(Crontab::read(text).jobs.len(), 1);
    }

    #[test]
    fn a_hostile_one_is_bounded() {
        let jobs: String = (0..10_000).map(|number| format!("* * * * * {number}\n")).collect();
        let crontab = Crontab::read(&jobs);
        assert_eq!((crontab.jobs.len(), crontab.faults.len()), (MAX_JOBS, MAX_FAULTS));
        assert!(crontab.faults[MAX_FAULTS - 1].why.contains("nothing below"));
        let variables = |count: usize| (0..count).map(|number| format!("V{number}=x\n")).collect::<String>();
        let crontab = Crontab::read(&(variables(MAX_VARIABLES + 1) + "* * * * * a"));
        assert_eq!((crontab.jobs[0].variables.len(), crontab.faults.len()), (MAX_VARIABLES, 1));
        assert_eq!(Crontab::read(&variables(10_000)).faults.len(), MAX_FAULTS);
        // Each job gets a copy of all variables, so their bytes are bounded too.
        let long = format!("A={}\nB={}\n* * * * * a", "x".repeat(1500), "x".repeat(1500));
        let crontab = Crontab::read(&long);
        assert_eq!((crontab.jobs[0].variables.len(), crontab.faults[0].line), (1, Some(2)));
        // No input causes a panic.
        for text in [
            "%",
            "@",
            "=",
            "* * * * * %",
            "* * * * * \\",
            "\u{feff}* * * * * a",
            "ä=ö",
            "@daily",
            "\t\t",
            "* * * * * \\%%",
        ] {
            assert!(Crontab::read(text).jobs.len() <= 1, "{text}");
        }
    }

    #[test]
    fn a_name_stays_when_lines_move() {
        let name = |text: &str, index: usize| Crontab::read(text).jobs[index].name.clone();
        assert_eq!(name("* * * * * a\n* * * * * b", 1), name("# x\n* * * * * b", 0));
        assert_ne!(name("* * * * * a\n* * * * * b", 1), name("* * * * * a\n", 0));
        assert_eq!(name("* * * * * a", 0).as_str(), "crontab-a3d63492");
    }
}
