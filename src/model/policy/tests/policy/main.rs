//! The policy as its callers see it: directories in, policy and diagnostics out.
//!
//! These tests must run as root: a configuration that belongs to anyone else is refused.

mod check;
mod diagnostics;
mod directory;
mod inheritance;
mod round_trip;
mod scale;
mod shipped;
mod store;
mod trust;
