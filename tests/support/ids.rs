//! Ids of users for the tenants of a test.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

/// A range of ids that no other test on this machine uses while the value lives. Each slot is claimed by binding an
/// abstract socket of its name, which only one process can do at a time.
#[derive(Debug)]
pub(crate) struct Ids {
    pub(crate) first: u32,
    pub(crate) claims: Vec<UnixListener>,
}

impl Ids {
    /// Claims adjacent slots. There are 1,024 slots of 16 tenants each: 2^30 ids from 2^30 on. The process id
    /// decides where the search starts.
    pub(crate) fn claim(slots: u32) -> Self {
        let claim = |slot: u32| {
            let address = SocketAddr::from_abstract_name(format!("bailiwick-test-ids-{slot}")).expect("a name");
            UnixListener::bind_addr(&address).ok()
        };
        for first in (0..=1024 - slots).cycle().skip(std::process::id() as usize % 1024).take(1024) {
            let claims: Option<Vec<UnixListener>> = (first..first + slots).map(claim).collect();
            if let Some(claims) = claims {
                return Self { first: (1 << 30) + first * 16 * 65_536, claims };
            }
        }
        panic!("1,024 hosts of tests run on this machine");
    }
}
