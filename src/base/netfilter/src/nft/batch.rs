//! Changes of tables in one transaction.

use super::model::{
    Chain, Element, Rule, Set, Table, write_chain_name, write_rule_chain, write_rule_handle, write_set_name,
};
use super::{
    DELETE_CHAIN, DELETE_ELEMENTS, DELETE_RULE, DELETE_SET, DELETE_TABLE, INET_HEADER, NEW_CHAIN, NEW_ELEMENTS,
    NEW_RULE, NEW_SET, NEW_TABLE, SUBSYSTEM, TABLE_NAME,
};
use bailiwick_netlink::message::{ACK, APPEND, CREATE, EXCLUSIVE, Writer};
use bailiwick_netlink::socket::{Error, Refusal, Socket};

// The names and numbers of linux/netfilter/nfnetlink.h.
const BEGIN: u16 = 16;
const END: u16 = 17;
const GENERATION: u16 = 1;
/// The family of a batch's ends is unspecified, and they name the subsystem in the order of networks.
const ENDS_HEADER: [u8; 4] = [0, 0, 0, (SUBSYSTEM >> 8) as u8];
const ELEMENTS: u16 = 3;
/// Bytes of elements in one message. An attribute has 64 KiB at most.
const MAX_ELEMENTS: usize = 48 << 10;

/// Changes that are all made, or none of them.
#[derive(Debug, Clone)]
pub struct Batch {
    writer: Writer,
    /// What each message does. The sequence number of a message is its place, from 1.
    operations: Vec<String>,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// A batch without a change.
    #[must_use]
    pub fn new() -> Self {
        let mut batch = Self { writer: Writer::default(), operations: Vec::new() };
        batch.writer.begin(BEGIN, 0, 1);
        batch.writer.raw(&ENDS_HEADER);
        batch.writer.end();
        batch.operations.push("begin a change of nftables".to_owned());
        batch
    }

    /// A batch that is refused with `ERESTART` (85) when something else has changed nftables in this namespace since its
    /// generation was read: see [`super::NftSocket::generation`].
    #[must_use]
    pub fn if_unchanged(generation: u32) -> Self {
        let mut batch = Self { writer: Writer::default(), operations: Vec::new() };
        batch.writer.begin(BEGIN, 0, 1);
        batch.writer.raw(&ENDS_HEADER);
        batch.writer.put_be32(GENERATION, generation);
        batch.writer.end();
        batch.operations.push(format!("begin a change of generation {generation} of nftables"));
        batch
    }

    /// Whether it has no change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.len() == 1
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.writer.size()
    }

    fn operation(&mut self, kind: u16, flags: u16, what: String, write: impl FnOnce(&mut Writer)) {
        self.operations.push(what);
        self.writer.begin(kind, flags, sequence(self.operations.len()));
        self.writer.raw(&INET_HEADER);
        write(&mut self.writer);
        self.writer.end();
    }

    /// Adds an empty table unless it is there.
    pub fn add_table(&mut self, table: &str) {
        self.operation(NEW_TABLE, CREATE, format!("add table {table}"), |to| Table::new(table).write(to));
    }

    /// Deletes a table with all that is in it.
    pub fn delete_table(&mut self, table: &str) {
        self.operation(DELETE_TABLE, 0, format!("delete table {table}"), |to| to.put_text(TABLE_NAME, table));
    }

    /// Deletes all rules of a table. Chains, sets and elements stay.
    pub fn flush_table(&mut self, table: &str) {
        self.operation(DELETE_RULE, 0, format!("flush table {table}"), |to| to.put_text(TABLE_NAME, table));
    }

    /// Adds what a table has, to a table that is there: first all sets, then all chains, then all rules. Elements come after it.
    pub fn add_contents(&mut self, table: &Table) {
        for set in &table.sets {
            self.add_set(&table.name, set);
        }
        for chain in &table.chains {
            self.add_chain(&table.name, chain);
        }
        for chain in &table.chains {
            for rule in &chain.rules {
                self.add_rule(&table.name, &chain.name, rule);
            }
        }
    }

    /// Makes a table as given, whatever it was before. No packet sees anything between. Its elements come after this call, in
    /// the same batch.
    pub fn replace_table(&mut self, table: &Table) {
        self.add_table(&table.name);
        self.delete_table(&table.name);
        self.add_table(&table.name);
        self.add_contents(table);
    }

    /// Adds a chain without its rules. One that is there gets this policy.
    pub fn add_chain(&mut self, table: &str, chain: &Chain) {
        let what = format!("add chain {table} {}", chain.name);
        self.operation(NEW_CHAIN, CREATE, what, |to| chain.write(table, to));
    }

    /// Deletes a chain that no rule and no element calls.
    pub fn delete_chain(&mut self, table: &str, chain: &str) {
        let what = format!("delete chain {table} {chain}");
        self.operation(DELETE_CHAIN, 0, what, |to| write_chain_name(table, chain, to));
    }

    /// Deletes all rules of a chain.
    pub fn flush_chain(&mut self, table: &str, chain: &str) {
        let what = format!("flush chain {table} {chain}");
        self.operation(DELETE_RULE, 0, what, |to| write_rule_chain(table, chain, to));
    }

    /// Adds a rule after the last one of a chain.
    pub fn add_rule(&mut self, table: &str, chain: &str, rule: &Rule) {
        let comment = rule.comment.as_deref().map(|comment| format!(" \"{comment}\"")).unwrap_or_default();
        let what = format!("add rule {table} {chain}{comment}");
        self.operation(NEW_RULE, CREATE | APPEND, what, |to| rule.write(table, chain, to));
    }

    /// Deletes a rule by its handle.
    pub fn delete_rule(&mut self, table: &str, chain: &str, handle: u64) {
        let what = format!("delete rule {table} {chain} handle {handle}");
        self.operation(DELETE_RULE, 0, what, |to| {
            write_rule_chain(table, chain, to);
            write_rule_handle(to, handle);
        });
    }

    /// Has a chain have these rules and no others.
    pub fn replace_rules(&mut self, table: &str, chain: &str, rules: &[Rule]) {
        self.flush_chain(table, chain);
        for rule in rules {
            self.add_rule(table, chain, rule);
        }
    }

    /// Adds a set or map. One that is there must be the same.
    pub fn add_set(&mut self, table: &str, set: &Set) {
        let id = sequence(self.operations.len());
        let what = format!("add set {table} {}", set.name);
        self.operation(NEW_SET, CREATE, what, |to| set.write(table, id, to));
    }

    /// Deletes a set that no rule uses.
    pub fn delete_set(&mut self, table: &str, set: &str) {
        self.operation(DELETE_SET, 0, format!("delete set {table} {set}"), |to| write_set_name(table, set, to));
    }

    /// Deletes all elements of a set.
    pub fn flush_set(&mut self, table: &str, set: &str) {
        let what = format!("flush set {table} {set}");
        self.operation(DELETE_ELEMENTS, 0, what, |to| write_set_name(table, set, to));
    }

    /// Adds elements. The kernel leaves one that is there as it is, and refuses it when it leads to something else.
    pub fn add_elements<'a>(&mut self, table: &str, set: &Set, elements: impl IntoIterator<Item = &'a Element>) {
        self.elements(NEW_ELEMENTS, CREATE, "add", table, set, elements);
    }

    /// Adds elements, and is refused with `EEXIST` when one is there.
    pub fn create_elements<'a>(&mut self, table: &str, set: &Set, elements: impl IntoIterator<Item = &'a Element>) {
        self.elements(NEW_ELEMENTS, CREATE | EXCLUSIVE, "create", table, set, elements);
    }

    /// Deletes elements by their keys, and is refused with `ENOENT` when one is not there.
    pub fn delete_elements<'a>(&mut self, table: &str, set: &Set, elements: impl IntoIterator<Item = &'a Element>) {
        self.elements(DELETE_ELEMENTS, 0, "delete", table, set, elements);
    }

    fn elements<'a>(
        &mut self,
        kind: u16,
        flags: u16,
        verb: &str,
        table: &str,
        set: &Set,
        elements: impl IntoIterator<Item = &'a Element>,
    ) {
        let mut rest = elements.into_iter().peekable();
        let mut first = 1;
        while rest.peek().is_some() {
            let mut count = 0;
            self.operation(kind, flags, String::new(), |to| {
                write_set_name(table, &set.name, to);
                to.nest(ELEMENTS, |list| {
                    let start = list.size();
                    while list.size() - start < MAX_ELEMENTS
                        && let Some(element) = rest.next()
                    {
                        element.write(set.splits_ranges(), list);
                        count += 1;
                    }
                });
            });
            if let Some(what) = self.operations.last_mut() {
                *what = format!("{verb} elements {first} to {} of set {table} {}", first + count - 1, set.name);
            }
            first += count;
        }
    }

    /// Sends the batch.
    pub(super) fn commit(mut self, socket: &mut Socket) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        // The kernel acknowledges the last change when all are made.
        self.writer.add_flags(ACK);
        self.writer.begin(END, 0, sequence(self.operations.len() + 1));
        self.writer.raw(&ENDS_HEADER);
        self.writer.end();
        let what = format!("make {} changes of nftables", self.operations.len() - 1);
        let Some(bytes) = self.writer.bytes() else {
            let why = "one of them is longer than a message can be".to_owned();
            return Err(Error::Invalid { what, why });
        };
        let operations = &self.operations;
        let name = |sequence: u32| {
            let place = usize::try_from(sequence).ok().and_then(|sequence| sequence.checked_sub(1));
            place.and_then(|place| operations.get(place)).unwrap_or(&what).clone()
        };
        let refusals: Vec<Refusal> = socket.commit(bytes, &what, name)?;
        if refusals.is_empty() { Ok(()) } else { Err(Error::Refused(refusals)) }
    }
}

fn sequence(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}
