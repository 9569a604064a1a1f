//! Floor 1: one function per system call or kernel text format. No policy, no logging.
//!
//! The only crate with unsafe code. Each unsafe block makes one call and names what the call demands and where it is
//! guaranteed. Descriptors come back owned; raw numbers never leave this crate.

pub mod file;
pub mod socket;
