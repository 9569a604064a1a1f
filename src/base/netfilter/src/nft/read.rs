//! Reading tables and elements back, and the socket for both directions.

use super::batch::Batch;
use super::model::{Chain, Element, Rule, Set, Table, write_set_name};
use super::{
    GET_CHAIN, GET_ELEMENTS, GET_GENERATION, GET_RULE, GET_SET, GET_TABLE, HEADER, INET, NEW_CHAIN, NEW_ELEMENTS,
    NEW_GENERATION, NEW_RULE, NEW_SET, NEW_TABLE, TABLE_NAME, request,
};
use bailiwick_netlink::message::{Received, Writer, attributes, find, find_be32, find_text};
use bailiwick_netlink::socket::{Error, Socket};
use bailiwick_sys::netlink::Protocol;
use std::collections::BTreeMap;

const GENERATION: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const ELEMENTS: u16 = 3;
/// How often a table is read anew because it changed meanwhile.
const TRIES: usize = 8;

/// A socket for tables of nftables.
#[derive(Debug)]
pub struct NftSocket {
    socket: Socket,
}

/// A table as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableDump {
    /// The table, with the counts of its rules.
    pub table: Table,
    /// The handles of the rules, by chain, in the order of its rules.
    pub handles: BTreeMap<String, Vec<u64>>,
    /// The generation of nftables in this namespace that this is.
    pub generation: u32,
}

impl NftSocket {
    /// Opens the socket. It is about the network namespace that this thread is in, for good.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: Socket::open(Protocol::Netfilter)? })
    }

    /// Makes all changes of a batch, or none.
    ///
    /// # Errors
    /// [`Error::Refused`] with what was refused, and then nothing is changed; [`Error::Socket`]: `EMSGSIZE` or `ENOBUFS` when the
    /// batch is larger than the kernel takes.
    pub fn commit(&mut self, batch: Batch) -> Result<(), Error> {
        batch.commit(&mut self.socket)
    }

    /// Returns the number of changes that were made to nftables in this namespace, by anybody.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn generation(&mut self) -> Result<u32, Error> {
        let what = "get the generation of nftables";
        let mut found = None;
        self.socket.ask(&what, &mut request(GET_GENERATION), |message| {
            if let Some(body) = body(&message, NEW_GENERATION) {
                found = find_be32(body, GENERATION);
            }
        })?;
        let why = || "the kernel's answer has no number".to_owned();
        found.ok_or_else(|| Error::Invalid { what: what.to_owned(), why: why() })
    }

    /// Returns the family (`NFPROTO_…`: 1 `inet`, 2 `ip`, 10 `ip6`) and name of every table of this namespace.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Busy`].
    pub fn tables(&mut self) -> Result<Vec<(u8, String)>, Error> {
        let mut writer = Writer::request(GET_TABLE, 0);
        writer.raw(&[0; HEADER]);
        self.socket.dump(&"list tables", &mut writer, Vec::new, |all, message| {
            if message.kind == NEW_TABLE {
                let family = message.body.first().copied();
                let name = message.body.get(HEADER..).and_then(|body| find_text(body, TABLE_NAME));
                all.extend(family.zip(name));
            }
            Ok(())
        })
    }

    /// Returns a table of the family `inet` with its sets, chains and rules, as of one generation; `None` when there is none.
    ///
    /// # Errors
    /// [`Error::Refused`]; [`Error::Busy`] when it keeps changing; [`Error::TooMany`] when there are more than `limit` rules.
    pub fn table(&mut self, name: &str, limit: usize) -> Result<Option<TableDump>, Error> {
        for _ in 0..TRIES {
            let generation = self.generation()?;
            let found = self.table_once(name, limit, generation)?;
            if self.generation()? == generation {
                return Ok(found);
            }
        }
        Err(Error::Busy { what: format!("read table {name}") })
    }

    fn table_once(&mut self, name: &str, limit: usize, generation: u32) -> Result<Option<TableDump>, Error> {
        let what = format!("read table {name}");
        let mut writer = request(GET_TABLE);
        writer.put_text(TABLE_NAME, name);
        let mut table = Table::new(name);
        match self.socket.ask(&what, &mut writer, |message| {
            let flags = body(&message, NEW_TABLE).and_then(|body| find_be32(body, TABLE_FLAGS));
            table.flags = flags.unwrap_or_default();
        }) {
            Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(None),
            other => other?,
        }
        table.sets = self.list(&what, GET_SET, NEW_SET, name, limit, Set::parse)?;
        table.chains = self.list(&what, GET_CHAIN, NEW_CHAIN, name, limit, Chain::parse)?;
        let mut handles: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (rule, handle, chain) in self.list(&what, GET_RULE, NEW_RULE, name, limit, Rule::parse)? {
            if let Some(chain) = table.chains.iter_mut().find(|one| one.name == chain) {
                chain.rules.push(rule);
                handles.entry(chain.name.clone()).or_default().push(handle);
            }
        }
        Ok(Some(TableDump { table, handles, generation }))
    }

    fn list<T>(
        &mut self,
        what: &str,
        get: u16,
        new: u16,
        table: &str,
        limit: usize,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let mut writer = request(get);
        writer.put_text(TABLE_NAME, table);
        self.socket.dump(&what, &mut writer, Vec::new, |all, message| {
            let Some(body) = body(&message, new) else { return Ok(()) };
            // Not every list can be asked for one table.
            if find_text(body, TABLE_NAME).as_deref() != Some(table) {
                return Ok(());
            }
            // Whoever compares must not miss one.
            let Some(one) = parse(body) else {
                let why = "the kernel lists something that cannot be read".to_owned();
                return Err(Error::Invalid { what: what.to_owned(), why });
            };
            all.push(one);
            if all.len() > limit {
                return Err(Error::TooMany { what: what.to_owned(), limit });
            }
            Ok(())
        })
    }

    /// Returns the elements of a set, with their counts; those of ranges in their order. `set` is as planned or as read.
    ///
    /// # Errors
    /// [`Error::Refused`] with `ENOENT` when there is no such set; [`Error::Busy`]; [`Error::TooMany`] when there are more than
    /// `limit`.
    pub fn elements(&mut self, table: &str, set: &Set, limit: usize) -> Result<Vec<Element>, Error> {
        let parts = self.fold(table, set, limit, Vec::new, |all, element, ends| all.push((element, ends)))?;
        if set.splits_ranges() {
            return Ok(Element::join(parts));
        }
        Ok(parts.into_iter().map(|(element, _)| element).collect())
    }

    /// Returns the element of a set that has the key of another one, with its counts; `None` when there is none. Not for a set of
    /// ranges.
    ///
    /// # Errors
    /// [`Error::Refused`]. There is none in a set that is not there.
    pub fn element(&mut self, table: &str, set: &Set, key: &Element) -> Result<Option<Element>, Error> {
        let what = format!("find an element of set {table} {}", set.name);
        let mut writer = request(GET_ELEMENTS);
        write_set_name(table, &set.name, &mut writer);
        writer.nest(ELEMENTS, |list| Element { expressions: Vec::new(), ..key.clone() }.write(false, list));
        let mut found = None;
        let asked = self.socket.ask(&what, &mut writer, |message| {
            let list = body(&message, NEW_ELEMENTS).and_then(|body| find(body, ELEMENTS));
            found = list.and_then(|list| attributes(list).find_map(|(_, item)| Element::parse(item)));
        });
        match asked {
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok(found.map(|(element, _)| element)),
        }
    }

    /// Makes a `T` with `new` and adds each element of a set to it with `each`, without keeping all elements. It begins anew when
    /// the set changed meanwhile. A range of a set with one field comes as two elements, of which only the first is given.
    ///
    /// # Errors
    /// As for [`Self::elements`].
    pub fn fold_elements<T>(
        &mut self,
        table: &str,
        set: &Set,
        limit: usize,
        new: impl Fn() -> T,
        mut each: impl FnMut(&mut T, Element),
    ) -> Result<T, Error> {
        self.fold(table, set, limit, new, |all, element, ends| {
            if !ends {
                each(all, element);
            }
        })
    }

    fn fold<T>(
        &mut self,
        table: &str,
        set: &Set,
        limit: usize,
        new: impl Fn() -> T,
        mut each: impl FnMut(&mut T, Element, bool),
    ) -> Result<T, Error> {
        let what = format!("list elements of set {table} {}", set.name);
        let mut writer = request(GET_ELEMENTS);
        write_set_name(table, &set.name, &mut writer);
        let new = || (new(), 0);
        let (all, _) = self.socket.dump(&what, &mut writer, new, |(all, count): &mut (T, usize), message| {
            let Some(list) = body(&message, NEW_ELEMENTS).and_then(|body| find(body, ELEMENTS)) else { return Ok(()) };
            for (element, ends) in attributes(list).filter_map(|(_, item)| Element::parse(item)) {
                *count += usize::from(!ends);
                if *count > limit {
                    return Err(Error::TooMany { what: what.clone(), limit });
                }
                each(all, element, ends);
            }
            Ok(())
        })?;
        Ok(all)
    }
}

/// The attributes of a message of a kind, and of the family `inet` where it has one.
fn body<'a>(message: &Received<'a>, kind: u16) -> Option<&'a [u8]> {
    let is_wanted = message.kind == kind && (kind == NEW_GENERATION || message.body.first() == Some(&INET));
    message.body.get(HEADER..).filter(|_| is_wanted)
}
