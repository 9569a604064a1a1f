//! Tables, chains, sets, elements and rules, as data and as bytes (`linux/netfilter/nf_tables.h`).

use super::expression::{
    Expr, Verdict, milliseconds, parse_list, parse_some, value, write_list, write_some, write_value,
};
use super::{LIST_ITEM, TABLE_NAME};
use bailiwick_netlink::message::{Writer, find, find_be32, find_be64, find_text};
use bailiwick_netlink::route::{Family, octets};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

// Attributes of chains.
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
// Attributes of rules.
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USER_DATA: u16 = 7;
// Attributes and flags of sets.
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LEN: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LEN: u16 = 7;
const SET_DESCRIPTION: u16 = 9;
const SET_ID: u16 = 10;
const SET_TIMEOUT: u16 = 11;
const SET_USER_DATA: u16 = 13;
const SET_EXPRESSION: u16 = 17;
const SET_EXPRESSIONS: u16 = 18;
const DESCRIPTION_SIZE: u16 = 1;
const DESCRIPTION_FIELDS: u16 = 2;
const FIELD_LEN: u16 = 1;
const INTERVAL: u32 = 0x4;
const MAP: u32 = 0x8;
const TIMEOUT: u32 = 0x10;
const DYNAMIC: u32 = 0x20;
const CONCATENATION: u32 = 0x80;
const HAS_EXPRESSIONS: u32 = 0x100;
const DATA_IS_VERDICT: u32 = 0xffff_ff00;
// Attributes and flags of elements.
const KEY: u16 = 1;
const DATA: u16 = 2;
const FLAGS: u16 = 3;
const ELEMENT_EXPRESSION: u16 = 7;
const KEY_END: u16 = 10;
const ELEMENT_EXPRESSIONS: u16 = 11;
const INTERVAL_END: u32 = 1;
// What `nft(8)` writes into user data: the comment of a rule, the byte orders of a set's key and value.
const COMMENT: u8 = 0;
const KEY_ORDER: u8 = 0;
const DATA_ORDER: u8 = 1;
const HOST_ORDER: u32 = 1;
const NETWORK_ORDER: u32 = 2;
/// Bits that a field has in the number of a concatenation's type.
const TYPE_BITS: u32 = 6;
const NAME_BYTES: usize = 16;

/// A table of the family `inet`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    /// The name.
    pub name: String,
    /// The flags `NFT_TABLE_F_…`. A table with a flag is not what was planned: 1 is dormant, it does nothing.
    pub flags: u32,
    /// The sets and maps, in the order in which they were made.
    pub sets: Vec<Set>,
    /// The chains, in the order in which they were made.
    pub chains: Vec<Chain>,
}

impl Table {
    /// A table without anything in it.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// The same table as it can be compared: sets and chains in the order of their names, and as before any packet came. A rule that
    /// adds to a set is without expressions of its own when the set has them: they are the same, and the kernel does not name them
    /// (`nft_dynset_dump`).
    #[must_use]
    pub fn comparable(mut self) -> Self {
        self.sets.sort_by(|one, other| one.name.cmp(&other.name));
        self.chains.sort_by(|one, other| one.name.cmp(&other.name));
        for expression in self.sets.iter_mut().flat_map(|set| &mut set.expressions) {
            *expression = expression.clone().without_state();
        }
        for rule in self.chains.iter_mut().flat_map(|chain| &mut chain.rules) {
            *rule = rule.clone().without_state();
        }
        let counting: BTreeSet<&str> =
            self.sets.iter().filter(|set| !set.expressions.is_empty()).map(|set| set.name.as_str()).collect();
        for expression in
            self.chains.iter_mut().flat_map(|chain| &mut chain.rules).flat_map(|rule| &mut rule.expressions)
        {
            if let Expr::Dynset { set, expressions, .. } = expression
                && counting.contains(set.as_str())
            {
                expressions.clear();
            }
        }
        self
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.put_text(TABLE_NAME, &self.name);
    }
}

/// What a base chain is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChainKind {
    /// It decides about packets.
    Filter,
    /// It changes addresses: it sees the first packet of a connection.
    Nat,
    /// It has packets looked up in the tables of routes again.
    Route,
    /// Another one, by its name.
    Other(String),
}

impl ChainKind {
    fn name(&self) -> &str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
            Self::Other(name) => name,
        }
    }
}

/// Where on the way of a packet a base chain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// After it came in, before its route is known.
    Prerouting,
    /// When it is for this machine.
    Input,
    /// When it is for another machine.
    Forward,
    /// When it is from this machine.
    Output,
    /// Before it goes out.
    Postrouting,
    /// Another one, by the kernel's number.
    Other(u32),
}

impl Hook {
    fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
            Self::Other(number) => number,
        }
    }

    fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Prerouting,
            1 => Self::Input,
            2 => Self::Forward,
            3 => Self::Output,
            4 => Self::Postrouting,
            other => Self::Other(other),
        }
    }
}

/// What becomes of a packet that no rule of a base chain decides about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Policy {
    /// It passes this hook.
    Accept,
    /// It is dropped.
    Drop,
}

/// What makes a chain a base chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BaseChain {
    /// What it is for.
    pub kind: ChainKind,
    /// Where it is.
    pub hook: Hook,
    /// The lowest number comes first. Names of `nft(8)`: raw -300, mangle -150, dstnat -100, filter 0, srcnat 100.
    pub priority: i32,
    /// What becomes of the other packets.
    pub policy: Policy,
}

/// A chain with its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The name.
    pub name: String,
    /// What makes it a base chain; `None` for a chain that rules call.
    pub base: Option<BaseChain>,
    /// The rules, in the order in which they are evaluated.
    pub rules: Vec<Rule>,
}

impl Chain {
    /// A chain that rules call.
    #[must_use]
    pub fn called(name: &str, rules: Vec<Rule>) -> Self {
        Self { name: name.to_owned(), base: None, rules }
    }

    /// A base chain.
    #[must_use]
    pub fn base(name: &str, base: BaseChain, rules: Vec<Rule>) -> Self {
        Self { name: name.to_owned(), base: Some(base), rules }
    }

    /// Writes the chain without its rules.
    pub(super) fn write(&self, table: &str, writer: &mut Writer) {
        write_chain_name(table, &self.name, writer);
        let Some(base) = &self.base else { return };
        writer.nest(CHAIN_HOOK, |hook| {
            hook.put_be32(HOOK_NUMBER, base.hook.number());
            hook.put_be32(HOOK_PRIORITY, base.priority.cast_unsigned());
        });
        writer.put_be32(CHAIN_POLICY, u32::from(base.policy == Policy::Accept));
        writer.put_text(CHAIN_TYPE, base.kind.name());
    }

    /// Reads a chain without its rules.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let base = match find(body, CHAIN_HOOK) {
            None => None,
            Some(hook) => Some(BaseChain {
                kind: match find_text(body, CHAIN_TYPE)?.as_str() {
                    "filter" => ChainKind::Filter,
                    "nat" => ChainKind::Nat,
                    "route" => ChainKind::Route,
                    other => ChainKind::Other(other.to_owned()),
                },
                hook: Hook::from_number(find_be32(hook, HOOK_NUMBER)?),
                priority: find_be32(hook, HOOK_PRIORITY)?.cast_signed(),
                policy: if find_be32(body, CHAIN_POLICY)? == 0 { Policy::Drop } else { Policy::Accept },
            }),
        };
        Some(Self { name: find_text(body, CHAIN_NAME)?, base, rules: Vec::new() })
    }
}

pub(super) fn write_chain_name(table: &str, chain: &str, writer: &mut Writer) {
    writer.put_text(TABLE_NAME, table);
    writer.put_text(CHAIN_NAME, chain);
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// The expressions, in the order in which they are evaluated.
    pub expressions: Vec<Expr>,
    /// What it is for, at most 128 bytes. `nft(8)` shows it.
    pub comment: Option<String>,
}

impl Rule {
    /// A rule made of terms: `Rule::new([iifname().eq("bw9"), drop()])`.
    #[must_use]
    pub fn new(terms: impl IntoIterator<Item = Vec<Expr>>) -> Self {
        Self { expressions: terms.into_iter().flatten().collect(), comment: None }
    }

    /// The same rule with a comment.
    #[must_use]
    pub fn comment(self, comment: &str) -> Self {
        Self { comment: Some(comment.to_owned()), ..self }
    }

    /// The same rule before any packet came.
    #[must_use]
    pub fn without_state(self) -> Self {
        let expressions = self.expressions.into_iter().map(Expr::without_state).collect();
        Self { expressions, ..self }
    }

    pub(super) fn write(&self, table: &str, chain: &str, writer: &mut Writer) {
        write_rule_chain(table, chain, writer);
        write_list(writer, RULE_EXPRESSIONS, &self.expressions);
        if let Some(comment) = &self.comment {
            let mut text = comment.as_bytes().to_vec();
            text.push(0);
            let mut all = Vec::new();
            user_data(&mut all, COMMENT, &text);
            writer.put(RULE_USER_DATA, &all);
        }
    }

    /// Reads a rule, its handle and the name of its chain.
    pub(super) fn parse(body: &[u8]) -> Option<(Self, u64, String)> {
        let expressions = find(body, RULE_EXPRESSIONS).map(parse_list).unwrap_or_default();
        let comment = find(body, RULE_USER_DATA)
            .and_then(|all| find_user_data(all, COMMENT))
            .map(bailiwick_netlink::message::text);
        Some((Self { expressions, comment }, find_be64(body, RULE_HANDLE)?, find_text(body, RULE_CHAIN)?))
    }
}

pub(super) fn write_rule_chain(table: &str, chain: &str, writer: &mut Writer) {
    writer.put_text(TABLE_NAME, table);
    writer.put_text(RULE_CHAIN, chain);
}

pub(super) fn write_rule_handle(writer: &mut Writer, handle: u64) {
    writer.put_be64(RULE_HANDLE, handle);
}

/// Adds an entry of user data: its kind, its length in one byte, its content.
fn user_data(all: &mut Vec<u8>, kind: u8, content: &[u8]) {
    let content = &content[..content.len().min(usize::from(u8::MAX))];
    all.push(kind);
    all.extend(u8::try_from(content.len()));
    all.extend(content);
}

fn find_user_data(mut all: &[u8], kind: u8) -> Option<&[u8]> {
    loop {
        let len = usize::from(*all.get(1)?);
        let content = all.get(2..2 + len)?;
        if all[0] == kind {
            return Some(content);
        }
        all = &all[2 + len..];
    }
}

/// What a part of a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// A family: one byte.
    Nfproto,
    /// An address of IPv4.
    Ipv4,
    /// An address of IPv6.
    Ipv6,
    /// A transport protocol: one byte.
    Protocol,
    /// A port.
    Service,
    /// A mark: 4 bytes of the machine's order. The class of a queue is one too.
    Mark,
    /// The name of a link: 16 bytes.
    Ifname,
    /// Another one, by the number that `nft(8)` has for it. This crate does not make it.
    Other(u8),
}

impl Field {
    /// Bytes of a value; 0 for [`Field::Other`].
    #[must_use]
    pub fn width(self) -> usize {
        match self {
            Self::Nfproto | Self::Protocol => 1,
            Self::Service => 2,
            Self::Ipv4 | Self::Mark => 4,
            Self::Ipv6 | Self::Ifname => 16,
            Self::Other(_) => 0,
        }
    }

    fn number(self) -> u32 {
        match self {
            Self::Nfproto => 2,
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Protocol => 12,
            Self::Service => 13,
            Self::Mark => 19,
            Self::Ifname => 41,
            Self::Other(number) => u32::from(number),
        }
    }

    fn from_number(number: u32) -> Self {
        match number {
            2 => Self::Nfproto,
            7 => Self::Ipv4,
            8 => Self::Ipv6,
            12 => Self::Protocol,
            13 => Self::Service,
            19 => Self::Mark,
            41 => Self::Ifname,
            other => Self::Other(u8::try_from(other).unwrap_or(u8::MAX)),
        }
    }

    fn order(self) -> u32 {
        match self {
            Self::Mark | Self::Ifname => HOST_ORDER,
            _ => NETWORK_ORDER,
        }
    }
}

/// The number of a type that is made of fields.
fn type_number(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |all, field| (all << TYPE_BITS) | field.number())
}

fn fields_of(mut number: u32) -> Vec<Field> {
    let mut fields = Vec::new();
    while number != 0 {
        fields.push(Field::from_number(number & ((1 << TYPE_BITS) - 1)));
        number >>= TYPE_BITS;
    }
    fields.reverse();
    fields
}

/// Bytes of a key or value. In a concatenation, each field takes a multiple of 4.
fn len_of(fields: &[Field]) -> u32 {
    let len = match fields {
        [one] => one.width(),
        several => several.iter().map(|field| field.width().next_multiple_of(4)).sum(),
    };
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// A value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// The name of a link, of which 15 bytes are taken.
    Ifname(&'a str),
    /// An address.
    Ip(IpAddr),
    /// A transport protocol.
    Protocol(u8),
    /// A port.
    Service(u16),
    /// A family.
    Nfproto(Family),
    /// A mark, or the class of a queue.
    Mark(u32),
    /// Flags of TCP.
    Flags(u8),
    /// How many routers a packet may still pass.
    Hops(u8),
}

impl Value<'_> {
    /// The bytes, as the kernel has them.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        match self {
            Self::Ifname(name) => {
                let mut bytes = name.as_bytes()[..name.len().min(NAME_BYTES - 1)].to_vec();
                bytes.resize(NAME_BYTES, 0);
                bytes
            }
            Self::Ip(address) => octets(address),
            Self::Protocol(number) | Self::Flags(number) | Self::Hops(number) => vec![number],
            Self::Service(port) => port.to_be_bytes().to_vec(),
            Self::Nfproto(family) => vec![family.number()],
            Self::Mark(mark) => mark.to_ne_bytes().to_vec(),
        }
    }
}

/// A key or value made of one value, or of several that are each filled up to a multiple of 4 bytes.
#[must_use]
pub fn concat(values: &[Value<'_>]) -> Vec<u8> {
    if let [one] = values {
        return one.bytes();
    }
    let mut all = Vec::new();
    for value in values {
        all.extend(value.bytes());
        all.resize(all.len().next_multiple_of(4), 0);
    }
    all
}

/// What the elements of a set lead to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DataType {
    /// Nothing: it is a set.
    None,
    /// A verdict.
    Verdict,
    /// A value made of fields.
    Fields(Vec<Field>),
}

/// A set or map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Set {
    /// The name.
    pub name: String,
    /// The fields of a key: one, or 2 to 5.
    pub key: Vec<Field>,
    /// What elements lead to.
    pub data: DataType,
    /// Whether keys are ranges.
    pub intervals: bool,
    /// Whether rules add elements. A set whose elements count connections must be dynamic too.
    pub dynamic: bool,
    /// Whether elements go after a time, and after which if they do not say it (zero: never).
    pub timeout: Option<Duration>,
    /// Elements at most; `None` for as many as there is memory.
    pub size: Option<u32>,
    /// What each element has: at most two of counter, quota, limit, connection limit. An element says its own values, or takes
    /// these.
    pub expressions: Vec<Expr>,
}

impl Set {
    /// A set without more.
    #[must_use]
    pub fn new(name: &str, key: &[Field]) -> Self {
        Self {
            name: name.to_owned(),
            key: key.to_vec(),
            data: DataType::None,
            intervals: false,
            dynamic: false,
            timeout: None,
            size: None,
            expressions: Vec::new(),
        }
    }

    /// A map to verdicts.
    #[must_use]
    pub fn verdicts(name: &str, key: &[Field]) -> Self {
        Self { data: DataType::Verdict, ..Self::new(name, key) }
    }

    /// A map to values.
    #[must_use]
    pub fn map(name: &str, key: &[Field], value: &[Field]) -> Self {
        Self { data: DataType::Fields(value.to_vec()), ..Self::new(name, key) }
    }

    /// The same set, whose keys are ranges.
    #[must_use]
    pub fn intervals(self) -> Self {
        Self { intervals: true, ..self }
    }

    /// The same set, to which rules add elements, or whose elements count connections.
    #[must_use]
    pub fn dynamic(self) -> Self {
        Self { dynamic: true, ..self }
    }

    /// The same set, with a bound on its elements.
    #[must_use]
    pub fn size(self, size: u32) -> Self {
        Self { size: Some(size), ..self }
    }

    /// The same set, whose elements go after a time.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
    }

    /// The same set, whose elements have a further expression.
    #[must_use]
    pub fn with(mut self, expression: Expr) -> Self {
        self.expressions.push(expression);
        self
    }

    /// Whether the kernel keeps a range as two elements: its first key, and the first key after it.
    pub(super) fn splits_ranges(&self) -> bool {
        self.intervals && self.key.len() == 1
    }

    pub(super) fn write(&self, table: &str, id: u32, writer: &mut Writer) {
        let is_concatenation = self.intervals && self.key.len() > 1;
        let flags = [
            (self.intervals, INTERVAL),
            (self.data != DataType::None, MAP),
            (self.timeout.is_some(), TIMEOUT),
            (self.dynamic, DYNAMIC),
            (is_concatenation, CONCATENATION),
            (self.expressions.len() > 1, HAS_EXPRESSIONS),
        ];
        let flags = flags.into_iter().filter(|(is_set, _)| *is_set).fold(0, |all, (_, flag)| all | flag);
        write_set_name(table, &self.name, writer);
        writer.put_be32(SET_ID, id);
        writer.put_be32(SET_FLAGS, flags);
        writer.put_be32(SET_KEY_TYPE, type_number(&self.key));
        writer.put_be32(SET_KEY_LEN, len_of(&self.key));
        // `nft(8)` cannot show a value whose byte order it does not know.
        let order = |fields: &[Field]| if let [one] = fields { one.order() } else { NETWORK_ORDER };
        let mut orders = Vec::new();
        user_data(&mut orders, KEY_ORDER, &order(&self.key).to_ne_bytes());
        match &self.data {
            DataType::None => {}
            DataType::Verdict => writer.put_be32(SET_DATA_TYPE, DATA_IS_VERDICT),
            DataType::Fields(fields) => {
                writer.put_be32(SET_DATA_TYPE, type_number(fields));
                writer.put_be32(SET_DATA_LEN, len_of(fields));
                user_data(&mut orders, DATA_ORDER, &order(fields).to_ne_bytes());
            }
        }
        writer.put(SET_USER_DATA, &orders);
        if is_concatenation || self.size.is_some() {
            writer.nest(SET_DESCRIPTION, |description| {
                if let Some(size) = self.size {
                    description.put_be32(DESCRIPTION_SIZE, size);
                }
                if is_concatenation {
                    description.nest(DESCRIPTION_FIELDS, |fields| {
                        for field in &self.key {
                            let len = u32::try_from(field.width()).unwrap_or(u32::MAX);
                            fields.nest(LIST_ITEM, |item| item.put_be32(FIELD_LEN, len));
                        }
                    });
                }
            });
        }
        if let Some(timeout) = self.timeout.filter(|timeout| !timeout.is_zero()) {
            writer.put_be64(SET_TIMEOUT, milliseconds(timeout));
        }
        write_some(writer, SET_EXPRESSION, SET_EXPRESSIONS, &self.expressions);
    }

    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        // The kernel leaves out what is 0.
        let flags = find_be32(body, SET_FLAGS).unwrap_or_default();
        let data = match find_be32(body, SET_DATA_TYPE) {
            _ if flags & MAP == 0 => DataType::None,
            Some(DATA_IS_VERDICT) => DataType::Verdict,
            number => DataType::Fields(fields_of(number?)),
        };
        Some(Self {
            name: find_text(body, SET_NAME)?,
            key: fields_of(find_be32(body, SET_KEY_TYPE)?),
            data,
            intervals: flags & INTERVAL != 0,
            dynamic: flags & DYNAMIC != 0,
            timeout: (flags & TIMEOUT != 0)
                .then(|| Duration::from_millis(find_be64(body, SET_TIMEOUT).unwrap_or_default())),
            size: find(body, SET_DESCRIPTION).and_then(|description| find_be32(description, DESCRIPTION_SIZE)),
            expressions: parse_some(body, SET_EXPRESSION, SET_EXPRESSIONS),
        })
    }
}

pub(super) fn write_set_name(table: &str, set: &str, writer: &mut Writer) {
    writer.put_text(TABLE_NAME, table);
    writer.put_text(SET_NAME, set);
}

/// What an element leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Data {
    /// A verdict.
    Verdict(Verdict),
    /// A value, as [`concat()`] makes it.
    Value(Vec<u8>),
}

/// An element of a set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// The key, or the first key of a range, as [`concat()`] makes it.
    pub key: Vec<u8>,
    /// The last key of a range.
    pub last: Option<Vec<u8>>,
    /// What it leads to.
    pub data: Option<Data>,
    /// What it has: its counter, quota, limit or connection limit.
    pub expressions: Vec<Expr>,
}

impl Element {
    /// An element with a key.
    #[must_use]
    pub fn new(key: &[Value<'_>]) -> Self {
        Self { key: concat(key), last: None, data: None, expressions: Vec::new() }
    }

    /// An element for a range of keys, both ends included. In a concatenation each field has its own range. A range of one key is
    /// the element with that key, as which the kernel lists it.
    #[must_use]
    pub fn range(first: &[Value<'_>], last: &[Value<'_>]) -> Self {
        let element = Self::new(first);
        Self { last: Some(concat(last)).filter(|last| *last != element.key), ..element }
    }

    /// The same element, leading to a verdict.
    #[must_use]
    pub fn verdict(self, verdict: Verdict) -> Self {
        Self { data: Some(Data::Verdict(verdict)), ..self }
    }

    /// The same element, leading to a value.
    #[must_use]
    pub fn value(self, value: &[Value<'_>]) -> Self {
        Self { data: Some(Data::Value(concat(value))), ..self }
    }

    /// The same element, with a further expression.
    #[must_use]
    pub fn with(mut self, expression: Expr) -> Self {
        self.expressions.push(expression);
        self
    }

    /// The same element before any packet came.
    #[must_use]
    pub fn without_state(self) -> Self {
        let expressions = self.expressions.into_iter().map(Expr::without_state).collect();
        Self { expressions, ..self }
    }

    /// The packets and bytes of its counter.
    #[must_use]
    pub fn counter(&self) -> Option<(u64, u64)> {
        self.expressions.iter().find_map(|expression| match expression {
            Expr::Counter { packets, bytes } => Some((*packets, *bytes)),
            _ => None,
        })
    }

    /// The bytes of its quota.
    #[must_use]
    pub fn quota(&self) -> Option<u64> {
        self.expressions.iter().find_map(|expression| match expression {
            Expr::Quota { bytes, .. } => Some(*bytes),
            _ => None,
        })
    }

    /// The bytes that its quota has counted. The kernel never says more than the quota.
    #[must_use]
    pub fn quota_used(&self) -> Option<u64> {
        self.expressions.iter().find_map(|expression| match expression {
            Expr::Quota { used, .. } => Some(*used),
            _ => None,
        })
    }

    pub(super) fn write(&self, splits_ranges: bool, writer: &mut Writer) {
        writer.nest(LIST_ITEM, |item| {
            write_value(item, KEY, &self.key);
            if let Some(last) = self.last.as_ref().filter(|_| !splits_ranges) {
                write_value(item, KEY_END, last);
            }
            match &self.data {
                None => {}
                Some(Data::Verdict(verdict)) => verdict.write(item, DATA),
                Some(Data::Value(value)) => write_value(item, DATA, value),
            }
            write_some(item, ELEMENT_EXPRESSION, ELEMENT_EXPRESSIONS, &self.expressions);
        });
        if splits_ranges && let Some(after) = successor(self.last.as_ref().unwrap_or(&self.key)) {
            writer.nest(LIST_ITEM, |item| {
                write_value(item, KEY, &after);
                item.put_be32(FLAGS, INTERVAL_END);
            });
        }
    }

    /// Reads an element, and whether it only ends the range before it.
    pub(super) fn parse(item: &[u8]) -> Option<(Self, bool)> {
        let data = match find(item, DATA) {
            None => None,
            Some(data) => Some(match Verdict::parse(data) {
                Some(verdict) => Data::Verdict(verdict),
                None => Data::Value(value(item, DATA)?),
            }),
        };
        let element = Self {
            key: value(item, KEY)?,
            last: value(item, KEY_END),
            data,
            expressions: parse_some(item, ELEMENT_EXPRESSION, ELEMENT_EXPRESSIONS),
        };
        Some((element, find_be32(item, FLAGS).unwrap_or_default() & INTERVAL_END != 0))
    }

    /// Makes ranges of what a set has that keeps each as two elements. A range that has no end goes up to the highest key.
    pub(super) fn join(mut parts: Vec<(Self, bool)>) -> Vec<Self> {
        // The end of a range comes before the beginning of the next one with the same key.
        parts.sort_by(|(one, ends), (other, other_ends)| one.key.cmp(&other.key).then(other_ends.cmp(ends)));
        let mut joined: Vec<Self> = Vec::new();
        let mut is_open = false;
        for (part, ends) in parts {
            let last = if ends { predecessor(&part.key) } else { None };
            match joined.last_mut().filter(|_| is_open) {
                Some(open) if ends => open.last = last.filter(|last| *last != open.key),
                _ => {}
            }
            is_open = !ends;
            if !ends {
                let last = Some(vec![u8::MAX; part.key.len()]).filter(|last| *last != part.key);
                joined.push(Self { last, ..part });
            }
        }
        joined
    }
}

/// The next key; `None` after the highest.
fn successor(key: &[u8]) -> Option<Vec<u8>> {
    let mut next = key.to_vec();
    for byte in next.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(next);
        }
    }
    None
}

/// The key before; `None` before the lowest.
fn predecessor(key: &[u8]) -> Option<Vec<u8>> {
    let mut previous = key.to_vec();
    for byte in previous.iter_mut().rev() {
        *byte = byte.wrapping_sub(1);
        if *byte != u8::MAX {
            return Some(previous);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::terms::counted;
    use proptest::prelude::*;

    #[test]
    fn a_concatenation_fills_up_each_field() {
        let key = concat(&[Value::Ifname("bw9"), Value::Service(80), Value::Protocol(6)]);
        assert_eq!(key, b"bw9\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x50\0\0\x06\0\0\0");
        assert_eq!(concat(&[Value::Protocol(6)]), [6]);
        assert_eq!(len_of(&[Field::Ifname, Field::Service, Field::Protocol]), 24);
        assert_eq!(len_of(&[Field::Protocol]), 1);
        let fields = vec![Field::Ifname, Field::Ipv4, Field::Service];
        assert_eq!(fields_of(type_number(&fields)), fields);
    }

    #[test]
    fn expressions_of_a_rule_that_its_set_has_too_make_no_difference() {
        let add = |set: &str| crate::nft::terms::iifname().add_to(set, Duration::ZERO, vec![counted(0, 0)]);
        let table = |expressions: &dyn Fn(&mut Rule)| {
            let mut rule = Rule::new([add("counts")]);
            expressions(&mut rule);
            let sets = vec![Set::new("counts", &[Field::Ifname]).dynamic().with(counted(5, 5))];
            Table { sets, chains: vec![Chain::called("a", vec![rule, Rule::new([add("other")])])], ..Table::new("t") }
        };
        let without = table(&|rule| {
            if let Some(Expr::Dynset { expressions, .. }) = rule.expressions.last_mut() {
                expressions.clear();
            }
        });
        assert_ne!(without, table(&|_| {}));
        assert_eq!(without.clone().comparable(), table(&|_| {}).comparable());
        let other = without.comparable().chains[0].rules[1].expressions.clone();
        assert!(matches!(&other[..], [_, Expr::Dynset { expressions, .. }] if expressions.len() == 1), "{other:?}");
    }

    #[test]
    fn a_long_name_of_a_link_keeps_its_final_zero() {
        assert_eq!(Value::Ifname("a-name-of-17-byte").bytes(), b"a-name-of-17-by\0");
    }

    #[test]
    fn a_range_of_one_key_is_that_key() {
        let port = |number| Value::Service(number);
        assert_eq!(Element::range(&[port(80)], &[port(80)]), Element::new(&[port(80)]));
        assert_ne!(Element::range(&[port(80)], &[port(81)]), Element::new(&[port(80)]));
    }

    proptest! {
        #[test]
        fn ranges_survive_being_split(mut bounds in proptest::collection::btree_set(any::<u16>(), 2..20)) {
            if bounds.len() % 2 == 1 {
                bounds.pop_first();
            }
            let bounds: Vec<u16> = bounds.into_iter().collect();
            let ranges: Vec<Element> = bounds
                .chunks(2)
                .map(|pair| Element::range(&[Value::Service(pair[0])], &[Value::Service(pair[1])]))
                .collect();
            let mut parts = Vec::new();
            for range in &ranges {
                let mut writer = Writer::default();
                range.write(true, &mut writer);
                let bytes = writer.bytes().expect("short").to_vec();
                parts.extend(bailiwick_netlink::message::attributes(&bytes).filter_map(|(_, item)| Element::parse(item)));
            }
            parts.reverse();
            prop_assert_eq!(Element::join(parts), ranges);
        }

        #[test]
        fn no_bytes_make_the_parsers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _none = (Chain::parse(&bytes), Rule::parse(&bytes), Set::parse(&bytes), Element::parse(&bytes));
            let _none = find_user_data(&bytes, 1);
        }
    }
}
