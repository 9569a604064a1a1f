//! Floor 4: the rules of the router and of the host, as data (`nft(8)`). Pure: no file, no kernel call, no clock.
//!
//! Addresses and the names of interfaces are in `bailiwick_plan::network`.

mod ranges;
pub mod router;
pub mod uplink;
