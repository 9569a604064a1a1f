//! The log of audit runs: lines of JSON, each with the hash of the line before it.
//!
//! Danger: the chain proves only that no line was changed *while the lines after it stayed the same*. An attacker who
//! can write the file can recompute all of it. Only a [`Head`] that is kept elsewhere reveals that. A line contains no
//! text that a tenant chose.
//!
//! A line is `BODY` with its last `}` replaced by `,"hash":"HEX"}`. `HEX` is the SHA-256 of `BODY`. So two lines of
//! shell check one line, without this program.

use crate::Run;
use bailiwick_types::{AuditReport, Moment, TenantName, TenantReport, Verdict, visible};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, BufRead, Read};
use std::str::FromStr;

/// The longest line in bytes, with its newline. It has room for the summary of some 20,000 tenants.
pub const MAX_LINE: usize = 2 << 20;

/// The most bytes of a line that tenants may take. Tenants that do not fit are left out and counted.
const MAX_TENANTS: usize = MAX_LINE - (64 << 10);

/// The most problems that are reported.
const MAX_PROBLEMS: usize = 100;

/// The most lines that are kept to explain the damage after the first wrong line. Each takes 80 bytes.
const MAX_KEPT: usize = 1_000_000;

/// The text before the hash in a line.
const HASH_KEY: &str = ",\"hash\":\"";

/// A SHA-256 hash. Its text has 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// Why a text is no digest or head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseHeadError {
    /// The text is no digest.
    #[error("a digest is 64 lower-case hexadecimal digits")]
    Digest,
    /// The text is no head.
    #[error("a head is a number, \":\" and 64 lower-case hexadecimal digits, as the journal has it")]
    Head,
}

impl Digest {
    fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = ParseHeadError;
    fn from_str(text: &str) -> Result<Self, ParseHeadError> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(ParseHeadError::Digest),
        };
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != 32 || !rest.is_empty() {
            return Err(ParseHeadError::Digest);
        }
        let mut bytes = [0; 32];
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = ParseHeadError;
    fn try_from(text: String) -> Result<Self, ParseHeadError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// The last line of a chain. It is enough to write the next line, and to prove later that no line up to it was changed
/// or lost. Its text, for the journal, is `SEQUENCE:HASH`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Number of the line; 0 before the first line.
    pub sequence: u64,
    /// Hash of the line; all zeros before the first line.
    pub hash: Digest,
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sequence, self.hash)
    }
}

impl FromStr for Head {
    type Err = ParseHeadError;
    fn from_str(text: &str) -> Result<Self, ParseHeadError> {
        let (sequence, hash) = text.split_once(':').ok_or(ParseHeadError::Head)?;
        let sequence = sequence.parse().map_err(|_| ParseHeadError::Head)?;
        Ok(Self { sequence, hash: hash.parse().map_err(|_| ParseHeadError::Head)? })
    }
}

/// The summary of one audit in a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// Name of the host.
    pub host: String,
    /// Release of the host's kernel.
    pub kernel: String,
    /// Number of tenants with each verdict.
    pub verdicts: BTreeMap<Verdict, u64>,
    /// Each tenant, by name.
    pub tenants: BTreeMap<TenantName, TenantSummary>,
    /// Number of tenants that did not fit. Tenants with the best verdicts are left out first.
    pub left_out: u64,
    /// [`digest`] of the report.
    pub report: Digest,
}

/// The summary of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantSummary {
    /// The worst verdict of the tenant's walls, limits and findings.
    pub verdict: Verdict,
    /// Ids of the tenant's findings.
    pub findings: BTreeSet<String>,
}

/// A line without its hash. The order of the fields is their order in the text.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    sequence: u64,
    time: Moment,
    previous: Digest,
    summary: Summary,
}

/// The digest of a whole report: the hash of its JSON without white space, with the fields in their declared order.
#[must_use]
pub fn digest(report: &AuditReport) -> Digest {
    Digest::of(&serde_json::to_vec(report).expect("reports have string keys and no fallible parts"))
}

fn summary(report: &AuditReport, host: &str) -> Summary {
    let cut = |text: &str| visible(text).chars().take(255).collect::<String>();
    let mut verdicts = BTreeMap::new();
    for tenant in &report.tenants {
        *verdicts.entry(tenant.verdict).or_default() += 1;
    }
    // When not all fit, the tenants with the worst verdicts come first.
    let mut order: Vec<&TenantReport> = report.tenants.iter().collect();
    order.sort_by(|a, b| b.verdict.cmp(&a.verdict).then_with(|| a.name.cmp(&b.name)));
    let (mut tenants, mut size, mut left_out) = (BTreeMap::new(), 0, 0);
    for tenant in order {
        let findings: BTreeSet<String> = tenant.findings.iter().map(|finding| cut(&finding.id)).collect();
        // Quotes, separators and fixed words take less than 64 bytes. Escaping turns one byte into at most six.
        size += 64 + tenant.name.as_str().len() + findings.iter().map(|id| id.len() * 6 + 3).sum::<usize>();
        if size > MAX_TENANTS {
            left_out += 1;
        } else {
            tenants.insert(tenant.name.clone(), TenantSummary { verdict: tenant.verdict, findings });
        }
    }
    let (host, kernel) = (cut(host), cut(&report.host.kernel));
    Summary { host, kernel, verdicts, tenants, left_out, report: digest(report) }
}

/// Makes the line for one run, with its newline, and the new head of the chain. `previous` is `None` for the first
/// line.
///
/// Write the line with one call at the end of the file, make it durable, then write the head to the journal.
#[must_use]
pub fn next_line(previous: Option<&Head>, report: &AuditReport, run: &Run<'_>) -> (String, Head) {
    let previous = previous.copied().unwrap_or_default();
    let sequence = previous.sequence.checked_add(1).expect("nobody audits so often");
    let body = Body { sequence, time: run.at, previous: previous.hash, summary: summary(report, run.host) };
    let mut line = serde_json::to_string(&body).expect("a line has string keys and no fallible parts");
    let hash = Digest::of(line.as_bytes());
    line.pop();
    line.push_str(&format!("{HASH_KEY}{hash}\"}}\n"));
    (line, Head { sequence, hash })
}

/// A problem of a chain. Lines count from 1.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The hash of a line is not the hash of its text.
    #[error("line {line}{} was changed: its hash is not that of its text", of(.sequence))]
    Changed {
        /// The changed line.
        line: u64,
        /// The sequence that the line claims, if it can be read.
        sequence: Option<u64>,
    },
    /// Lines are missing.
    #[error("before line {line}, {count} of the lines with the sequences {first} to {last} are missing")]
    Missing {
        /// The line that now stands after the gap.
        line: u64,
        /// The first sequence that may be missing.
        first: u64,
        /// The last sequence that may be missing.
        last: u64,
        /// How many lines are missing.
        count: u64,
    },
    /// A line is not where it was written.
    #[error("line {line} (sequence {sequence}) is not in its place")]
    Moved {
        /// The present place of the line.
        line: u64,
        /// The sequence of the line.
        sequence: u64,
    },
    /// A line has the sequence of another line.
    #[error("line {line} has the sequence {sequence} of another line: it is a copy or was put in")]
    Repeated {
        /// The line that repeats the sequence.
        line: u64,
        /// The sequence that the line claims.
        sequence: u64,
    },
    /// A line does not hold the hash of the line before it, though both lines are whole.
    #[error("line {line} (sequence {sequence}) does not continue line {before}: one of the two was written anew")]
    Unlinked {
        /// The line that holds another hash.
        line: u64,
        /// The sequence of the line.
        sequence: u64,
        /// The line before it in the chain; 0 for the beginning of the file.
        before: u64,
    },
    /// A line is longer than any line that an audit writes.
    #[error("line {line} has more than {MAX_LINE} bytes: no audit wrote it")]
    TooLong {
        /// The long line.
        line: u64,
    },
    /// The last line has no newline, and its text would continue the chain.
    #[error(
        "line {line}, the last, is incomplete: the host stopped while it was written, or its end was cut off; \
         the next audit removes it"
    )]
    Torn {
        /// The incomplete line.
        line: u64,
    },
    /// The file ends before a line that is known to have existed.
    #[error("the file ends with sequence {last}, but sequence {expected} had been written: lines were cut off its end")]
    Ends {
        /// The last sequence in the file.
        last: u64,
        /// The sequence that was expected.
        expected: u64,
    },
    /// A line is whole and linked, but differs from the line that is known to have existed.
    #[error("sequence {sequence} has another hash than was recorded elsewhere: the file was written anew")]
    Rewritten {
        /// The sequence of the line.
        sequence: u64,
    },
    /// There are more problems than are reported.
    #[error("there are more problems, which are not told")]
    More,
    /// The file cannot be read.
    #[error("cannot read line {line}")]
    Read {
        /// The line at which reading stopped.
        line: u64,
        /// The cause.
        source: io::Error,
    },
}

fn of(sequence: &Option<u64>) -> String {
    sequence.map(|sequence| format!(" (sequence {sequence})")).unwrap_or_default()
}

impl Problem {
    /// The line that the problem names; `None` for a problem of the whole file.
    #[must_use]
    pub fn line(&self) -> Option<u64> {
        match self {
            Self::Changed { line, .. }
            | Self::Missing { line, .. }
            | Self::Moved { line, .. }
            | Self::Repeated { line, .. }
            | Self::Unlinked { line, .. }
            | Self::TooLong { line }
            | Self::Torn { line }
            | Self::Read { line, .. } => Some(*line),
            Self::Ends { .. } | Self::Rewritten { .. } | Self::More => None,
        }
    }
}

/// Where the next line of a chain goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resumption {
    /// The last whole line.
    pub head: Head,
    /// Length of all whole lines in bytes. The rest of the file is a torn line, which must be cut off before the next
    /// write.
    pub length: u64,
}

/// Reads a chain to its end and returns its head. `expected` is a head that was recorded elsewhere. The chain must
/// contain that line unchanged; later lines may follow it.
///
/// Reads line by line, and keeps lines in memory only after the first line in a wrong place.
///
/// # Errors
/// Every problem, in the order of lines.
pub fn verify(reader: impl BufRead, expected: Option<&Head>) -> Result<Head, Vec<Problem>> {
    let (resumption, problems) = scan(reader, expected);
    if problems.is_empty() { Ok(resumption.head) } else { Err(problems) }
}

/// Like [`verify`], but accepts a torn last line, which a power failure leaves.
///
/// # Errors
/// Every other problem, in the order of lines. The caller then keeps this file and begins a new one.
pub fn resume(reader: impl BufRead, expected: Option<&Head>) -> Result<Resumption, Vec<Problem>> {
    let (resumption, mut problems) = scan(reader, expected);
    problems.retain(|problem| !matches!(problem, Problem::Torn { .. }));
    if problems.is_empty() { Ok(resumption) } else { Err(problems) }
}

/// A line as it was read.
enum Line {
    Whole { body: Link, hash: Digest },
    Changed { sequence: Option<u64> },
}

/// The fields that link a line to its place. They are read from a body only if its hash is right.
#[derive(Clone, Copy)]
struct Link {
    sequence: u64,
    previous: Digest,
}

/// A whole line of the file. Line 0 is the beginning of the file.
#[derive(Clone, Copy)]
struct Seen {
    line: u64,
    sequence: u64,
    previous: Digest,
    hash: Digest,
}

fn scan(mut reader: impl BufRead, mut expected: Option<&Head>) -> (Resumption, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut chain = Chain::default();
    let mut resumption = Resumption { head: Head::default(), length: 0 };
    let (mut buffer, mut line) = (Vec::new(), 0);
    loop {
        line += 1;
        let (end, read) = match read_line(&mut reader, &mut buffer) {
            Ok(None) => break,
            Ok(Some(found)) => found,
            Err(source) => {
                problems.push(Problem::Read { line, source });
                // The rest of the file is unknown.
                expected = None;
                break;
            }
        };
        match end {
            End::TooLong => {
                problems.push(Problem::TooLong { line });
                chain.changed.push(line);
            }
            End::Missing if is_torn(&buffer, chain.ordered.head()) && chain.is_ordered() => {
                problems.push(Problem::Torn { line });
                break;
            }
            End::Missing | End::Newline => match understand(&buffer) {
                Line::Whole { body: Link { sequence, previous }, hash } if end == End::Newline => {
                    chain.add(Seen { line, sequence, previous, hash });
                }
                Line::Whole { body: Link { sequence, .. }, .. } => {
                    problems.push(Problem::Changed { line, sequence: Some(sequence) });
                    chain.changed.push(line);
                }
                Line::Changed { sequence } => {
                    problems.push(Problem::Changed { line, sequence });
                    chain.changed.push(line);
                }
            },
        }
        resumption.length += read;
        chain.compare(expected, &mut problems);
        if problems.len() > MAX_PROBLEMS || chain.rest.len() + chain.changed.len() > MAX_KEPT {
            problems.push(Problem::More);
            expected = None;
            break;
        }
    }
    resumption.head = chain.judge(line, expected, &mut problems);
    // Problems of the whole file come last.
    problems.sort_by_key(|problem| problem.line().unwrap_or(u64::MAX));
    if problems.len() > MAX_PROBLEMS {
        problems.truncate(MAX_PROBLEMS);
        problems.push(Problem::More);
    }
    (resumption, problems)
}

/// How a line ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Newline,
    /// The file ends without a newline.
    Missing,
    /// The line has more than [`MAX_LINE`] bytes.
    TooLong,
}

/// Reads the next line without its newline, and returns how it ends and its length in bytes. `None` at the end of the
/// file. A line that is too long leaves the buffer empty.
fn read_line(reader: &mut impl BufRead, buffer: &mut Vec<u8>) -> io::Result<Option<(End, u64)>> {
    buffer.clear();
    let limit = u64::try_from(MAX_LINE).expect("fits");
    let mut read = count(reader.by_ref().take(limit).read_until(b'\n', buffer)?);
    if buffer.last() == Some(&b'\n') {
        buffer.pop();
        return Ok(Some((End::Newline, read)));
    }
    if read < limit {
        return Ok((read > 0).then_some((End::Missing, read)));
    }
    buffer.clear();
    read += count(reader.skip_until(b'\n')?);
    Ok(Some((End::TooLong, read)))
}

fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("a length fits into 64 bits")
}

/// Splits a line into the text of its body and its hash.
fn split(line: &[u8]) -> Option<(Vec<u8>, Digest)> {
    let (rest, tail) = line.split_at_checked(line.len().checked_sub(HASH_KEY.len() + 64 + 2)?)?;
    let hash = tail.strip_prefix(HASH_KEY.as_bytes())?.strip_suffix(b"\"}")?;
    let hash = std::str::from_utf8(hash).ok()?.parse().ok()?;
    Some(([rest, b"}"].concat(), hash))
}

fn understand(line: &[u8]) -> Line {
    let body = split(line).filter(|(body, hash)| Digest::of(body) == *hash);
    let body = body.and_then(|(body, hash)| Some((serde_json::from_slice::<Body>(&body).ok()?, hash)));
    match body {
        Some((Body { sequence, previous, .. }, hash)) => Line::Whole { body: Link { sequence, previous }, hash },
        None => Line::Changed { sequence: claimed(line) },
    }
}

/// The sequence that a changed line claims.
fn claimed(line: &[u8]) -> Option<u64> {
    let rest = line.strip_prefix(b"{\"sequence\":")?;
    let digits = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

/// Whether the last line, which has no newline, is the beginning of a line that would continue the chain. Some file
/// systems leave zeros where data was not written in time.
fn is_torn(line: &[u8], head: Head) -> bool {
    let written = line.len() - line.iter().rev().take_while(|byte| **byte == 0).count();
    let line = &line[..written];
    let begin = format!("{{\"sequence\":{},\"time\":", head.sequence.saturating_add(1));
    let Some(rest) = line.strip_prefix(begin.as_bytes()) else { return begin.as_bytes().starts_with(line) };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (rest, link) = (&rest[digits..], format!(",\"previous\":\"{}\",\"summary\":", head.hash));
    if !rest.starts_with(link.as_bytes()) {
        return link.as_bytes().starts_with(rest);
    }
    match serde_json::from_slice::<serde_json::Value>(line) {
        // The line is whole except for its newline.
        Ok(_) => split(line).is_some_and(|(body, hash)| Digest::of(&body) == hash),
        Err(error) => error.is_eof(),
    }
}

/// The lines that were read so far.
#[derive(Default)]
struct Chain {
    /// The last line of the unbroken run from the beginning.
    ordered: Ordered,
    /// The whole lines from the first misplaced line on.
    rest: Vec<Seen>,
    /// The changed and too long lines. Each may stand for a missing line.
    changed: Vec<u64>,
    /// Whether the line of the expected head was read.
    met: bool,
}

#[derive(Clone, Copy)]
struct Ordered(Seen);

impl Default for Ordered {
    fn default() -> Self {
        let Head { sequence, hash } = Head::default();
        Self(Seen { line: 0, sequence, previous: hash, hash })
    }
}

impl Ordered {
    fn head(self) -> Head {
        Head { sequence: self.0.sequence, hash: self.0.hash }
    }
}

impl Chain {
    fn is_ordered(&self) -> bool {
        self.rest.is_empty() && self.changed.is_empty()
    }

    fn add(&mut self, seen: Seen) {
        let last = self.ordered.0;
        if self.is_ordered() && last.sequence.checked_add(1) == Some(seen.sequence) && seen.previous == last.hash {
            self.ordered = Ordered(seen);
        } else {
            self.rest.push(seen);
        }
    }

    /// Compares the line that was read last with the expected head.
    fn compare(&mut self, expected: Option<&Head>, problems: &mut Vec<Problem>) {
        let Some(expected) = expected else { return };
        let last = self.rest.last().unwrap_or(&self.ordered.0);
        if last.sequence == expected.sequence && !self.met {
            self.met = true;
            if last.hash != expected.hash {
                problems.push(Problem::Rewritten { sequence: expected.sequence });
            }
        }
    }

    /// Reports what happened to the lines that are not in their places, and returns the head. The largest set of lines
    /// in rising order counts as in place. So when one line was moved, only that line is reported, and not every line
    /// that it passed.
    fn judge(&self, end: u64, expected: Option<&Head>, problems: &mut Vec<Problem>) -> Head {
        let first = self.ordered.0;
        let placed = in_order(&self.rest, first.sequence);
        let sequences: BTreeSet<u64> = placed.iter().map(|seen| seen.sequence).collect();
        let lines: BTreeSet<u64> = placed.iter().map(|seen| seen.line).collect();
        let astray: Vec<&Seen> = self.rest.iter().filter(|seen| !lines.contains(&seen.line)).collect();
        let mut elsewhere = BTreeSet::new();
        for Seen { line, sequence, .. } in astray.iter().copied().copied() {
            let repeated = sequence <= first.sequence || sequences.contains(&sequence) || !elsewhere.insert(sequence);
            problems.push(if repeated {
                Problem::Repeated { line, sequence }
            } else {
                Problem::Moved { line, sequence }
            });
        }
        let mut before = first;
        for seen in &placed {
            self.gap(&before, seen.line, seen.sequence, &elsewhere, problems);
            if before.sequence.checked_add(1) == Some(seen.sequence) && seen.previous != before.hash {
                let (line, sequence) = (seen.line, seen.sequence);
                problems.push(Problem::Unlinked { line, sequence, before: before.line });
            }
            before = *seen;
        }
        let changed = count(self.changed.iter().filter(|line| **line > before.line).count());
        let known = elsewhere.range(before.sequence..).count();
        if let Some(expected) = expected {
            let last = before.sequence.saturating_add(changed).saturating_add(count(known));
            if expected.sequence > last {
                problems.push(Problem::Ends { last, expected: expected.sequence });
            }
        }
        // A line that was moved away from the end leaves a gap there that nothing else shows.
        if let Some(last) = elsewhere.last().copied().filter(|last| *last > before.sequence) {
            self.gap(&before, end, last.saturating_add(1), &elsewhere, problems);
        }
        Head { sequence: before.sequence, hash: before.hash }
    }

    /// Reports the lines that are missing between a line in its place and the next one. A line that stands elsewhere is
    /// not missing. A changed line between the two stands for one missing line.
    fn gap(&self, before: &Seen, line: u64, sequence: u64, elsewhere: &BTreeSet<u64>, problems: &mut Vec<Problem>) {
        let (first, last) = (before.sequence.saturating_add(1), sequence.saturating_sub(1));
        if first > last {
            return;
        }
        let changed = self.changed.iter().filter(|changed| (before.line..line).contains(*changed)).count();
        let found = count(elsewhere.range(first..=last).count() + changed);
        let missing = (last - before.sequence).saturating_sub(found);
        if missing > 0 {
            problems.push(Problem::Missing { line, first, last, count: missing });
        }
    }
}

/// The longest selection of lines, in file order, whose sequences rise and are above `floor`.
fn in_order(lines: &[Seen], floor: u64) -> Vec<Seen> {
    // `tails[n]` ends a run of n + 1 lines: of all such runs, the one with the lowest last sequence. `before[i]` is the
    // line before line i in its run.
    let (mut tails, mut before): (Vec<usize>, Vec<Option<usize>>) = (Vec::new(), Vec::new());
    for (index, seen) in lines.iter().enumerate() {
        let place = tails.partition_point(|tail| lines[*tail].sequence < seen.sequence);
        before.push(place.checked_sub(1).map(|place| tails[place]));
        if seen.sequence <= floor || tails.get(place).is_some_and(|tail| lines[*tail].sequence == seen.sequence) {
            // Of two lines with the same sequence, the first one is in its place.
            continue;
        }
        if place == tails.len() { tails.push(index) } else { tails[place] = index }
    }
    let mut run = Vec::new();
    let mut next = tails.last().copied();
    while let Some(index) = next {
        run.push(lines[index]);
        next = before[index];
    }
    run.reverse();
    run
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::{Finding, HostReport, Severity};
    use proptest::prelude::*;

    fn report(tenants: &[(&str, Verdict, &[&str])]) -> AuditReport {
        let tenant = |(name, verdict, ids): &(&str, Verdict, &[&str])| TenantReport {
            name: name.parse().expect("valid"),
            verdict: *verdict,
            walls: Vec::new(),
            limits: Vec::new(),
            probes: Vec::new(),
            findings: ids.iter().map(|id| finding(id)).collect(),
        };
        let host = HostReport { kernel: "6.12".to_owned(), features: Vec::new() };
        AuditReport { tenants: tenants.iter().map(tenant).collect(), host }
    }

    fn finding(id: &str) -> Finding {
        let evidence = "pid 7 \"a\\u{1b}\"".to_owned();
        Finding { id: id.to_owned(), severity: Severity::Warning, tenant: None, evidence, remedy: "look".to_owned() }
    }

    fn chain(lines: u64) -> (Vec<String>, Vec<Head>) {
        let report = report(&[("alice", Verdict::Enforced, &[]), ("bob", Verdict::Drift, &["BW090", "BW012"])]);
        let (mut all, mut heads): (Vec<String>, Vec<Head>) = (Vec::new(), Vec::new());
        for number in 0..lines {
            let run = Run { at: Moment(1_800_000_000 + number * 86_400), host: "web1" };
            let (line, head) = next_line(heads.last(), &report, &run);
            all.push(line);
            heads.push(head);
        }
        (all, heads)
    }

    fn told(lines: &[String], expected: Option<&Head>) -> Vec<String> {
        let problems = verify(lines.concat().as_bytes(), expected).err().unwrap_or_default();
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_line_reads_as_documented() {
        let (lines, heads) = chain(2);
        let first = "{\"sequence\":1,\"time\":1800000000,\
            \"previous\":\"0000000000000000000000000000000000000000000000000000000000000000\",\
            \"summary\":{\"host\":\"web1\",\"kernel\":\"6.12\",\"verdicts\":{\"enforced\":1,\"drift\":1},\
            \"tenants\":{\"alice\":{\"verdict\":\"enforced\",\"findings\":[]},\
            \"bob\":{\"verdict\":\"drift\",\"findings\":[\"BW012\",\"BW090\"]}},\"left_out\":0,";
        assert!(lines[0].starts_with(first), "{}", lines[0]);
        assert!(lines[0].ends_with(&format!(",\"hash\":\"{}\"}}\n", heads[0].hash)), "{}", lines[0]);
        assert!(lines[1].contains(&format!("\"sequence\":2,\"time\":1800086400,\"previous\":\"{}\"", heads[0].hash)));
        assert_eq!(heads[1].to_string().parse(), Ok(heads[1]));
        assert_eq!(heads[1].to_string().to_uppercase().parse::<Head>(), Err(ParseHeadError::Head));
    }

    #[test]
    fn the_lines_in_the_manual_are_a_chain() {
        let manual = include_str!("../../../../docs/audit.md");
        let lines: Vec<&str> = manual.split_inclusive('\n').filter(|line| line.starts_with("{\"sequence\"")).collect();
        let head = verify(lines.concat().as_bytes(), None).expect("whole");
        assert_eq!(head.sequence, 2);
        assert!(manual.contains(&format!("`2:{}...`", &head.hash.to_string()[..12])));
    }

    #[test]
    fn a_chain_stands_and_has_its_head() {
        let (lines, heads) = chain(5);
        let text = lines.concat();
        assert_eq!(verify(text.as_bytes(), None).expect("whole"), heads[4]);
        assert_eq!(verify(text.as_bytes(), Some(&heads[4])).expect("whole"), heads[4]);
        assert_eq!(verify(text.as_bytes(), Some(&heads[1])).expect("grown since"), heads[4]);
        assert_eq!(verify(&b""[..], None).expect("nothing yet"), Head::default());
        assert_eq!(verify(&b""[..], Some(&Head::default())).expect("nothing yet"), Head::default());
    }

    #[test]
    fn each_kind_of_damage_has_its_name() {
        let (lines, heads) = chain(8);
        let with = |order: &[usize]| -> Vec<String> { order.iter().map(|index| lines[index - 1].clone()).collect() };
        let cases: &[(&[usize], &[&str])] = &[
            (&[1, 2, 4, 5, 6, 7, 8], &["before line 3, 1 of the lines with the sequences 3 to 3 are missing"]),
            (&[3, 4, 5, 6, 7, 8], &["before line 1, 2 of the lines with the sequences 1 to 2 are missing"]),
            (
                &[1, 2, 6, 4, 5, 3, 7, 8],
                &["line 3 (sequence 6) is not in its place", "line 6 (sequence 3) is not in its place"],
            ),
            (&[1, 8, 2, 3, 4, 5, 6, 7], &["line 2 (sequence 8) is not in its place"]),
            (&[1, 2, 3, 3, 4, 5, 6, 7, 8], &["line 4 has the sequence 3 of another line: it is a copy or was put in"]),
            (&[1, 2, 3, 4, 5, 6, 7, 8, 1], &["line 9 has the sequence 1 of another line: it is a copy or was put in"]),
            (
                &[1, 2, 3, 4, 5],
                &["the file ends with sequence 5, but sequence 8 had been written: lines were cut off its end"],
            ),
            (&[], &["the file ends with sequence 0, but sequence 8 had been written: lines were cut off its end"]),
        ];
        for (order, golden) in cases {
            assert_eq!(told(&with(order), heads.last()), *golden, "{order:?}");
        }
        let mut changed = lines.clone();
        changed[3] = changed[3].replace("drift", "breached");
        assert_eq!(told(&changed, heads.last()), ["line 4 (sequence 4) was changed: its hash is not that of its text"]);
        changed[6] = "x".repeat(3 * MAX_LINE) + "\n";
        assert_eq!(told(&changed, heads.last()).len(), 2);
        assert!(told(&changed, heads.last())[1].starts_with("line 7 has more than 2097152 bytes"));
    }

    #[test]
    fn a_line_that_was_written_anew_with_its_hash_is_seen_at_the_next() {
        let (mut lines, heads) = chain(5);
        let run = Run { at: Moment(0), host: "web1" };
        let clean = report(&[("alice", Verdict::Enforced, &[])]);
        let (forged, forged_head) = next_line(Some(&heads[1]), &clean, &run);
        lines[2] = forged.clone();
        let golden = ["line 4 (sequence 4) does not continue line 3: one of the two was written anew"];
        assert_eq!(told(&lines, heads.last()), golden);
        // All later lines are written anew too. Only the head that is kept elsewhere reveals this.
        let (fourth, head) = next_line(Some(&forged_head), &clean, &run);
        let anew = [lines[0].clone(), lines[1].clone(), forged, fourth];
        assert_eq!(told(&anew, None), [""; 0]);
        assert_eq!(verify(anew.concat().as_bytes(), None).expect("whole"), head);
        let golden = ["sequence 4 has another hash than was recorded elsewhere: the file was written anew"];
        assert_eq!(told(&anew, Some(&heads[3])), golden);
        // A line was put between two others.
        let (mut lines, heads) = chain(5);
        lines.insert(3, next_line(Some(&Head { sequence: 70, ..heads[2] }), &clean, &run).0);
        assert!(told(&lines, heads.last())[0].starts_with("line 4 (sequence 71)"));
    }

    #[test]
    fn a_torn_line_is_cut_and_nothing_else_is() {
        let (lines, heads) = chain(3);
        let whole = lines[..2].concat();
        for length in 1..lines[2].len() {
            let torn = format!("{whole}{}", &lines[2][..length]);
            let problems = verify(torn.as_bytes(), Some(&heads[1])).expect_err("torn");
            assert!(matches!(problems[..], [Problem::Torn { line: 3 }]), "{length}: {problems:?}");
            let resumption = resume(torn.as_bytes(), Some(&heads[1])).expect("goes on");
            assert_eq!(resumption, Resumption { head: heads[1], length: count(whole.len()) });
            // The head of this line was recorded elsewhere, so the line had been whole.
            assert!(matches!(resume(torn.as_bytes(), Some(&heads[2])).expect_err("cut")[..], [Problem::Ends { .. }]));
        }
        let zeros = format!("{whole}{}\0\0\0", &lines[2][..40]);
        assert!(resume(zeros.as_bytes(), None).is_ok());
        for odd in ["x", "{\"sequence\":4", &lines[1][..90], &lines[2].trim_end().replace("web1", "web2"), "\n"] {
            let problems = resume(format!("{whole}{odd}").as_bytes(), None).expect_err("no torn line");
            assert!(matches!(problems[..], [Problem::Changed { line: 3, .. }]), "{odd}: {problems:?}");
        }
        assert_eq!(resume(whole.as_bytes(), None).expect("whole").length, count(whole.len()));
    }

    #[test]
    fn a_line_is_never_longer_than_can_be_read() {
        let mut report = report(&[("bad", Verdict::Breached, &["BW001"])]);
        report.host.kernel = "\u{1b}".repeat(100_000);
        let many = (0..40_000).map(|number| TenantReport {
            name: format!("tenant-{number:024}").parse().expect("valid"),
            verdict: Verdict::Enforced,
            ..report.tenants[0].clone()
        });
        report.tenants = many.chain(report.tenants.clone()).collect();
        let (line, head) = next_line(None, &report, &Run { at: Moment(1), host: "\"\n" });
        assert!(line.len() < MAX_LINE && line.len() > MAX_LINE / 2, "{}", line.len());
        assert!(line.contains("\"bad\":") && !line.contains("\"left_out\":0"));
        assert_eq!(verify(line.as_bytes(), Some(&head)).expect("whole"), head);
    }

    #[test]
    fn a_log_that_cannot_be_read_to_its_end_is_not_called_cut() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::TimedOut.into())
            }
        }
        let (lines, heads) = chain(3);
        let reader = io::BufReader::new(lines[0].as_bytes().chain(Broken));
        let problems = verify(reader, heads.last()).expect_err("broken");
        assert!(matches!(problems[..], [Problem::Read { line: 2, .. }]), "{problems:?}");
    }

    #[test]
    fn noise_is_told_shortly() {
        let noise = "\n".repeat(100_000);
        let problems = verify(noise.as_bytes(), None).expect_err("noise");
        assert!(problems.len() <= MAX_PROBLEMS + 1 && matches!(problems.last(), Some(Problem::More)));
    }

    fn names(problems: &[Problem], line: u64) -> bool {
        problems.iter().any(|problem| problem.line() == Some(line))
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_seen_in_its_line(lines in 1_u64..7, place in any::<prop::sample::Index>(), to in any::<u8>()) {
            let (lines, heads) = chain(lines);
            let mut bytes = lines.concat().into_bytes();
            let index = place.index(bytes.len());
            prop_assume!(bytes[index] != to);
            let line = 1 + count(bytes[..index].iter().filter(|byte| **byte == b'\n').count());
            bytes[index] = to;
            let problems = verify(&bytes[..], heads.last()).expect_err("changed");
            prop_assert!(names(&problems, line), "line {}: {:?}", line, problems);
            // The lines after it are not reported, except a line that was joined to it.
            let last = problems.iter().filter_map(Problem::line).max();
            prop_assert!(last <= Some(line + 1), "line {}: {:?}", line, problems);
        }

        #[test]
        fn any_missing_lines_are_named(keep in prop::collection::vec(any::<bool>(), 1..12)) {
            let (lines, heads) = chain(count(keep.len()));
            let kept: Vec<String> = lines.iter().zip(&keep).filter(|(_, keep)| **keep).map(|(line, _)| line.clone()).collect();
            let told = verify(kept.concat().as_bytes(), heads.last());
            prop_assert_eq!(told.is_ok(), keep.iter().all(|keep| *keep));
            let mut gone = BTreeSet::new();
            for problem in told.err().unwrap_or_default() {
                match problem {
                    Problem::Missing { first, last, count, .. } => {
                        prop_assert_eq!(count, last - first + 1);
                        gone.extend(first..=last);
                    }
                    Problem::Ends { last, expected } => gone.extend(last + 1..=expected),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            let expected: BTreeSet<u64> = (1..).zip(&keep).filter(|(_, keep)| !**keep).map(|(number, _)| number).collect();
            prop_assert_eq!(gone, expected);
        }

        #[test]
        fn any_swapped_lines_are_named(lines in 2_u64..12, a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>()) {
            let (mut lines, heads) = chain(lines);
            let (a, b) = (a.index(lines.len()), b.index(lines.len()));
            prop_assume!(a != b);
            lines.swap(a, b);
            let problems = verify(lines.concat().as_bytes(), heads.last()).expect_err("swapped");
            let named: Vec<u64> = problems.iter().filter_map(Problem::line).collect();
            let (first, second) = (count(a.min(b)) + 1, count(a.max(b)) + 1);
            // With two neighbours, or one line between the two, one moved line explains both.
            prop_assert!(named.contains(&first) || named.contains(&second), "{:?}", problems);
            prop_assert!(second - first <= 2 || named == [first, second], "{:?}", problems);
        }
    }
}
