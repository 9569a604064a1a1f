//! Floor 2: links, addresses, routes and queues of the network namespace that a socket is opened in. No policy, no logging, no
//! program executed.
//!
//! Each socket belongs to the network namespace of the thread that opened it, for good. Each request waits for the kernel's
//! answer, at most [`TIME`]. Only the kernel's messages are read. An error says what was tried, and the kernel's own words.
//!
//! Danger: the crate changes whatever namespace it is opened in. Whoever opens a socket must know where the thread is.

pub mod message;
pub mod socket;

pub mod route;

pub use socket::{Error, Refusal, TIME};
