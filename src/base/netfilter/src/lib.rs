//! Floor 3: nftables, connection tracking and packet logs of the network namespace that a socket is opened in. No policy, no
//! logging, no program executed.
//!
//! It speaks through the sockets of `bailiwick_netlink`: each belongs to the network namespace of the thread that opened it, each
//! answer is waited for a bounded time, and an error has the kernel's own words.
//!
//! Danger: the crate changes whatever namespace it is opened in. Whoever opens a socket must know where the thread is.

pub mod conntrack;
pub mod nflog;
pub mod nft;
pub mod packet;
