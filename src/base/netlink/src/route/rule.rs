//! Rules that choose the table of routes (`linux/fib_rules.h`).

use super::{Family, RouteSocket, request};
use crate::message::{CREATE, EXCLUSIVE, attributes, find_u32};
use crate::socket::Error;
use std::fmt;

// The names and numbers of linux/rtnetlink.h and linux/fib_rules.h.
const NEW: u16 = 32;
const DELETE: u16 = 33;
const GET: u16 = 34;
const PRIORITY: u16 = 6;
const MARK: u16 = 10;
const SUPPRESS_PREFIX: u16 = 14;
const TABLE: u16 = 15;
const MASK: u16 = 16;
const PAD: u16 = 18;
const PROTOCOL: u16 = 21;
const TO_TABLE: u8 = 1;
/// The length of `fib_rule_hdr` in bytes.
const HEADER: usize = 12;

/// A rule: packets with a mark are looked up in a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// The family of the packets.
    pub family: Family,
    /// The rule with the lowest number is asked first.
    pub priority: u32,
    /// The mark and the mask that a packet's mark must match; `None` when it is for all.
    pub mark: Option<(u32, u32)>,
    /// The table of routes.
    pub table: u32,
    /// What is done: `FR_ACT_…`; 1 is to look up the table.
    pub action: u8,
    /// The numbers of further conditions (`FRA_…`) that the kernel lists. Rules of this crate have none.
    pub further: Vec<u16>,
}

impl Rule {
    /// A rule that has packets with a mark looked up in a table.
    #[must_use]
    pub fn for_mark(family: Family, priority: u32, mark: u32, mask: u32, table: u32) -> Self {
        Self { family, priority, mark: Some((mark, mask)), table, action: TO_TABLE, further: Vec::new() }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "rule {} of {}", self.priority, self.family)?;
        if let Some((mark, mask)) = self.mark {
            write!(out, " fwmark {mark:#x}/{mask:#x}")?;
        }
        write!(out, " table {}", self.table)
    }
}

fn write(kind: u16, flags: u16, rule: &Rule) -> crate::message::Writer {
    let mut header = [0; HEADER];
    header[0] = rule.family.number();
    header[4] = u8::try_from(rule.table).unwrap_or_default();
    header[7] = rule.action;
    let mut writer = request(kind, flags, &header);
    writer.put_u32(PRIORITY, rule.priority);
    writer.put_u32(TABLE, rule.table);
    if let Some((mark, mask)) = rule.mark {
        writer.put_u32(MARK, mark);
        writer.put_u32(MASK, mask);
    }
    writer
}

impl RouteSocket {
    /// Adds a rule.
    ///
    /// # Errors
    /// [`Error::Refused`] with `EEXIST` when there is the same one.
    pub fn add_rule(&mut self, rule: &Rule) -> Result<(), Error> {
        self.socket.tell(&format_args!("add {rule}"), &mut write(NEW, CREATE | EXCLUSIVE, rule))
    }

    /// Deletes a rule.
    ///
    /// # Errors
    /// [`Error::Refused`] with `ENOENT` when there is none.
    pub fn delete_rule(&mut self, rule: &Rule) -> Result<(), Error> {
        self.socket.tell(&format_args!("delete {rule}"), &mut write(DELETE, 0, rule))
    }

    /// Returns the rules of a family, those of the kernel (priorities 0, 32766 and 32767) included.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Busy`].
    pub fn rules(&mut self, family: Family) -> Result<Vec<Rule>, Error> {
        let mut header = [0; HEADER];
        header[0] = family.number();
        let what = format_args!("list rules of {family}");
        self.socket.dump(&what, &mut request(GET, 0, &header), Vec::new, |all, message| {
            all.extend((message.kind == NEW).then(|| parse(message.body)).flatten());
            Ok(())
        })
    }
}

fn parse(body: &[u8]) -> Option<Rule> {
    let (head, body) = body.split_at_checked(HEADER)?;
    let known = [PRIORITY, MARK, SUPPRESS_PREFIX, TABLE, MASK, PAD, PROTOCOL];
    let mark = find_u32(body, MARK).unwrap_or_default();
    let mask = find_u32(body, MASK).unwrap_or_default();
    Some(Rule {
        family: Family::from_number(head[0])?,
        priority: find_u32(body, PRIORITY).unwrap_or_default(),
        mark: (mark != 0 || mask != 0).then_some((mark, mask)),
        table: find_u32(body, TABLE).unwrap_or(u32::from(head[4])),
        action: head[7],
        further: attributes(body).map(|(kind, _)| kind).filter(|kind| !known.contains(kind)).collect(),
    })
}
