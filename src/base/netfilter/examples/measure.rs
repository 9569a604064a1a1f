//! Measures tables of many tenants, in a network namespace of its own: `cargo run --release -p bailiwick-netlink --example
//! measure`. Each time is the median of 5.

use bailiwick_netfilter::nft::terms::*;
use bailiwick_netfilter::nft::{
    BaseChain, Batch, Chain, ChainKind, Element, Field, Hook, NftSocket, Policy, Rule, Set, Table, Value, Verdict,
};
use bailiwick_netlink::route::Family;
use std::error::Error;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

const TABLE: &str = "measured";
const ROUNDS: usize = 5;
const LIMIT: usize = 1_000_000;

/// The sets, of which each tenant has an element.
fn sets() -> Vec<Set> {
    vec![
        Set::new("own4", &[Field::Ifname, Field::Ipv4]),
        Set::new("own6", &[Field::Ifname, Field::Ipv6]),
        Set::verdicts("tenants", &[Field::Ifname]),
        Set::map("class", &[Field::Ifname], &[Field::Mark]),
        Set::new("sent", &[Field::Ifname]).with(counted(0, 0)),
        Set::new("received", &[Field::Ifname]).with(counted(0, 0)),
        Set::new("month", &[Field::Ifname]).with(quota_over(0, 0)),
        Set::new("connections", &[Field::Nfproto, Field::Ipv4]).dynamic().with(connections_over(0)),
    ]
}

/// The elements of one tenant, in the order of [`sets`].
fn elements(tenant: u32) -> Vec<Element> {
    let name = format!("bw{tenant}");
    let link = Value::Ifname(&name);
    let v4 = Value::Ip(IpAddr::V4(Ipv4Addr::from_bits(0x6440_0000 + tenant)));
    let v6 = Value::Ip(IpAddr::V6(Ipv6Addr::from_bits((0xfd00 << 112) + u128::from(tenant))));
    vec![
        Element::new(&[link, v4]),
        Element::new(&[link, v6]),
        Element::new(&[link]).verdict(Verdict::Accept),
        Element::new(&[link]).value(&[Value::Mark(tenant)]),
        Element::new(&[link]).with(counted(1, 100)),
        Element::new(&[link]).with(counted(1, 100)),
        Element::new(&[link]).with(quota_over(200_000_000_000, 100)),
        Element::new(&[Value::Nfproto(Family::V4), v4]).with(connections_over(2000)),
    ]
}

fn table() -> Table {
    let rules = vec![
        Rule::new([is_ipv4(), iifname().concat(ip_saddr()).lookup_not("own4"), drop()]),
        Rule::new([is_ipv6(), iifname().concat(ip6_saddr()).lookup_not("own6"), drop()]),
        Rule::new([iifname().lookup("sent")]),
        Rule::new([oifname().lookup("received")]),
        Rule::new([iifname().lookup("month"), drop()]),
        Rule::new([is_ipv4(), nfproto().concat(ip_saddr()).lookup("connections"), drop()]),
        Rule::new([iifname().set_priority("class")]),
        Rule::new([iifname().vmap("tenants")]),
    ];
    let base = BaseChain { kind: ChainKind::Filter, hook: Hook::Forward, priority: 0, policy: Policy::Drop };
    Table { sets: sets(), chains: vec![Chain::base("forward", base, rules)], ..Table::new(TABLE) }
}

/// The median time of some rounds.
fn median<T>(mut round: impl FnMut(usize) -> Result<T, Box<dyn Error>>) -> Result<Duration, Box<dyn Error>> {
    let mut times = Vec::new();
    for number in 0..ROUNDS {
        let start = Instant::now();
        let result = round(number)?;
        times.push(start.elapsed());
        std::mem::drop(result);
    }
    times.sort();
    Ok(times[ROUNDS / 2])
}

fn main() -> Result<(), Box<dyn Error>> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
    let mut out = std::io::stdout();
    let mut socket = NftSocket::open()?;
    let table = table();
    for count in [1_000, 10_000] {
        let all: Vec<Vec<Element>> = (0..count).map(elements).collect();
        let batch = || {
            let mut batch = Batch::new();
            batch.replace_table(&table);
            for (place, set) in table.sets.iter().enumerate() {
                batch.add_elements(TABLE, set, all.iter().map(|tenant| &tenant[place]));
            }
            batch
        };
        let written = median(|_| Ok(batch()))?;
        let bytes = batch().len();
        let loaded = median(|_| Ok(socket.commit(batch())?))?;
        let read = median(|_| {
            let mut sum = 0;
            for set in &table.sets[4..7] {
                sum += socket.fold_elements(
                    TABLE,
                    set,
                    LIMIT,
                    || 0,
                    |sum, element| {
                        *sum +=
                            element.counter().map_or(0, |counter| counter.1) + element.quota_used().unwrap_or_default();
                    },
                )?;
            }
            assert_eq!(sum, u64::from(count) * 300);
            Ok(sum)
        })?;
        let everything = median(|_| {
            let mut found = 0;
            for set in &table.sets {
                found += socket.elements(TABLE, set, LIMIT)?.len();
            }
            Ok(found)
        })?;
        let changed = median(|_| {
            let mut batch = Batch::new();
            batch.delete_elements(TABLE, &table.sets[6], [&all[7][6]]);
            batch.add_elements(TABLE, &table.sets[6], [&all[7][6]]);
            Ok(socket.commit(batch)?)
        })?;
        let tenant = median(|number| {
            let new = elements(count + u32::try_from(number)?);
            let mut batch = Batch::new();
            for (set, element) in table.sets.iter().zip(&new) {
                batch.add_elements(TABLE, set, [element]);
            }
            Ok(socket.commit(batch)?)
        })?;
        let rules = median(|_| Ok(socket.table(TABLE, LIMIT)?))?;
        writeln!(out, "{count} tenants, {bytes} bytes: write {written:.1?}, write and load {loaded:.1?}")?;
        writeln!(out, "  read counters and quotas {read:.1?}, all elements {everything:.1?}, the table {rules:.1?}")?;
        writeln!(out, "  change one element {changed:.1?}, add a tenant {tenant:.1?}")?;
    }
    Ok(())
}
