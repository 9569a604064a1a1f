//! Tables of nftables: what they are, how they are changed in one transaction, how they are read back (`nft(8)`,
//! `linux/netfilter/nf_tables.h`).
//!
//! All tables are of the family `inet`. [`Table`] is pure data; what was planned and what the kernel says are compared as such.
//! [`terms`] has what rules are made of, in the order of nft's own text.
//!
//! Danger: a term reads bytes of a packet wherever they are. In this family `ip saddr` of an IPv6 packet are bytes of something
//! else, so a rule must first ask [`terms::is_ipv4`], and [`terms::protocol`] before ports. nft's text does that by itself.

mod batch;
mod expression;
mod model;
mod read;
pub mod terms;

pub use batch::Batch;
pub use expression::{
    Bound, Comparison, CtKey, Direction, DynsetOperation, Expr, Header, LimitUnit, Lookup, MetaKey, NatKind, Register,
    Rejection, Verdict,
};
pub use model::{
    BaseChain, Chain, ChainKind, Data, DataType, Element, Field, Hook, Policy, Rule, Set, Table, Value, concat,
};
pub use read::{NftSocket, TableDump};

use bailiwick_netlink::message::Writer;

// The names and numbers of linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h and linux/netfilter.h.
const SUBSYSTEM: u16 = 10 << 8;
const INET: u8 = 1;
const NEW_TABLE: u16 = SUBSYSTEM;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const DELETE_CHAIN: u16 = SUBSYSTEM | 5;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const GET_RULE: u16 = SUBSYSTEM | 7;
const DELETE_RULE: u16 = SUBSYSTEM | 8;
const NEW_SET: u16 = SUBSYSTEM | 9;
const GET_SET: u16 = SUBSYSTEM | 10;
const DELETE_SET: u16 = SUBSYSTEM | 11;
const NEW_ELEMENTS: u16 = SUBSYSTEM | 12;
const GET_ELEMENTS: u16 = SUBSYSTEM | 13;
const DELETE_ELEMENTS: u16 = SUBSYSTEM | 14;
const NEW_GENERATION: u16 = SUBSYSTEM | 15;
const GET_GENERATION: u16 = SUBSYSTEM | 16;
/// `NFTA_LIST_ELEM`.
const LIST_ITEM: u16 = 1;
/// The name of the table is the first attribute of tables, chains, rules, sets and lists of elements.
const TABLE_NAME: u16 = 1;
/// The length of `nfgenmsg` in bytes.
const HEADER: usize = 4;

/// `nfgenmsg` for the family `inet`.
const INET_HEADER: [u8; HEADER] = [INET, 0, 0, 0];

/// A request about the family `inet`.
fn request(kind: u16) -> Writer {
    let mut writer = Writer::request(kind, 0);
    writer.raw(&INET_HEADER);
    writer
}
