//! What is in force, in the kernel: changed by the difference, compared with what should be, and made anew as a whole.
//!
//! Danger: counts are money. The sets that count stay whatever is made anew around them.

use super::desired::Desired;
use super::found::Difference;
use super::parts::{Part, shared_changes};
use super::{Router, RouterError};
use crate::step::{self, Step};
use bailiwick_netfilter::nft::{Batch, Chain, Element, Set, Table, TableDump};
use bailiwick_netlink::Error;
use bailiwick_rules::router::{self, Elements, MONTH, RECEIVED, RouterSettings, SENT, SharedRules, TABLE};
use bailiwick_types::TenantName;
use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

/// The most rules of the table: a policy has some tens, and there are as many policies as tenants at most.
const MOST_RULES: usize = 4_000_000;
/// The most elements of one set.
const MOST_ELEMENTS: usize = 8_000_000;
/// What the kernel says when somebody else has changed nftables since the number of changes was read (`errno(3)`).
const ERESTART: i32 = 85;
/// How often a change is tried that others disturb.
const TRIES: usize = 3;

impl Router {
    /// Puts the rules of a tenant in force, in place of its last ones.
    pub(super) fn put_in_force(&mut self, name: &TenantName, desired: &Desired) -> Result<(), RouterError> {
        let old = self.tenants.get(name).map(|old| old.elements.clone()).unwrap_or_default();
        let new: Vec<_> = desired.shared().into_iter().filter(|rules| !self.is_used(&rules.name, None)).collect();
        let replaced = self.tenants.get(name).map(|old| old.shared().map(Clone::clone)).into_iter().flatten();
        let is_kept = |rules: &SharedRules| desired.shared().into_iter().any(|new| new.name == rules.name);
        let replaced = replaced.filter(|rules| !is_kept(rules) && !self.is_used(&rules.name, Some(name)));
        let replaced: Vec<_> = replaced.collect();
        let sets = sets_by_name();
        self.commit(|batch| {
            for rules in &new {
                add_shared(batch, rules);
                change(batch, &sets, &Elements::new(), &rules.leads);
            }
            change(batch, &sets, &old, &desired.elements);
            // Those that are there go on counting.
            change(batch, &sets, &Elements::new(), &router::counters(desired.number));
            for rules in &replaced {
                remove_shared(batch, &sets, rules);
            }
        })
    }

    /// Whether a tenant needs shared rules, without one of them.
    fn is_used(&self, rules: &str, without: Option<&TenantName>) -> bool {
        let mut others = self.tenants.iter().filter(|(name, _)| Some(*name) != without);
        others.any(|(_, desired)| desired.shared().into_iter().any(|other| other.name == rules))
    }

    /// The rules that tenants share, each once.
    fn all_shared(&self) -> BTreeMap<&str, &SharedRules> {
        self.tenants.values().flat_map(Desired::shared).map(|rules| (rules.name.as_str(), rules)).collect()
    }

    /// Takes the rules of a tenant away, but not its counts.
    pub(super) fn take_out_of_force(&mut self, old: &Desired) -> Result<(), RouterError> {
        let sets = sets_by_name();
        // The volume goes on while the jail is down: its next one may start at once.
        let mut gone = old.elements.clone();
        gone.remove(MONTH);
        is_gone(self.commit(|batch| change(batch, &sets, &gone, &Elements::new())))
    }

    /// Makes everything begin anew for a number that belongs to another tenant now: its counts, and its connections, whose answers
    /// are not for the next one.
    pub(super) fn begin_anew(&mut self, number: u32) -> Result<(), RouterError> {
        self.left.extend(self.pools.tenant(number).iter().flat_map(|addresses| addresses.all()));
        self.forget_connections()?;
        self.remove_counts(|other| other == number)
    }

    /// Removes the counts of numbers that no tenant has: a purge was interrupted.
    pub(super) fn remove_counts_of_nobody(&mut self) -> Result<(), RouterError> {
        let numbers: BTreeSet<_> = self.usage.numbers().map(|(_, number)| number).collect();
        self.remove_counts(|number| !numbers.contains(&number))
    }

    fn remove_counts(&mut self, is_of: impl Fn(u32) -> bool) -> Result<(), RouterError> {
        let sets = sets_by_name();
        let mut gone = Elements::new();
        for set in sets.keys().filter(|set| router::counts(set)) {
            let mut elements = self.elements_of(set)?;
            elements.retain(|element| router::parse_key(&element.key).is_some_and(|(number, _)| is_of(number)));
            gone.insert(set.clone(), elements);
        }
        is_gone(self.commit(|batch| change(batch, &sets, &gone, &Elements::new())))
    }

    /// Puts what all tenants have in common in force.
    pub(super) fn put_common_in_force(&mut self, settings: &RouterSettings) -> Result<(), RouterError> {
        let (old, new) = (router::common(&self.settings), router::common(settings));
        let sets = sets_by_name();
        self.commit(|batch| change(batch, &sets, &old, &new))
    }

    /// Removes what a tenant has shared with others, if nobody else has it.
    pub(super) fn remove_shared_of(&mut self, old: &Desired) -> Result<(), RouterError> {
        let unused: Vec<_> = old.shared().into_iter().filter(|rules| !self.is_used(&rules.name, None)).collect();
        let sets = sets_by_name();
        is_gone(self.commit(|batch| {
            for rules in &unused {
                remove_shared(batch, &sets, rules);
            }
        }))
    }

    /// Whether connections of a tenant are open that count.
    pub(super) fn has_connections(&mut self, desired: &Desired) -> Result<bool, RouterError> {
        let key = router::counted_by(desired.number);
        for set in desired.shared().into_iter().flat_map(|rules| &rules.sets) {
            if router::counts_connections(&set.name) && self.nft.element(TABLE, set, &key)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Begins the volumes of those for whom a month has begun since they were counted last. A jail may be down, or this program was:
    /// what the kernel holds of the last month goes then, too.
    pub(super) fn begin_months(&mut self) -> Result<(), RouterError> {
        let numbers = self.usage.begun();
        let sets = sets_by_name();
        let Some(set) = sets.get(MONTH).filter(|_| !numbers.is_empty()) else { return Ok(()) };
        let mut old = self.elements_of(MONTH)?;
        old.retain(|element| router::parse_key(&element.key).is_some_and(|(number, _)| numbers.contains(&number)));
        let begun = self.tenants.values().filter(|desired| numbers.contains(&desired.number));
        let fresh = begun.filter_map(|desired| desired.elements.get(MONTH)).flatten().cloned();
        let fresh: Vec<_> = fresh.map(Element::without_state).collect();
        let mut batch = Batch::new();
        batch.delete_elements(TABLE, set, &old);
        batch.add_elements(TABLE, set, &fresh);
        if !batch.is_empty() {
            self.nft.commit(batch)?;
        }
        self.usage.have_begun(&numbers);
        Ok(())
    }

    /// Makes the changes, if nobody else has changed anything since; puts that right otherwise, and tries again.
    fn commit(&mut self, changes: impl Fn(&mut Batch)) -> Result<(), RouterError> {
        for _ in 0..TRIES {
            let mut batch = Batch::if_unchanged(self.generation);
            changes(&mut batch);
            if batch.is_empty() {
                return Ok(());
            }
            match self.nft.commit(batch) {
                Ok(()) => {
                    self.generation = self.nft.generation()?;
                    return Ok(());
                }
                Err(error) if error.errno() == Some(ERESTART) => {
                    let differences = self.compare()?;
                    self.found.note(differences, SystemTime::now());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Busy { what: "change the router's rules".to_owned() }.into())
    }

    /// Compares everything in the kernel with what should be there, and puts it right; returns what differed.
    pub(super) fn compare(&mut self) -> Result<Vec<Difference>, RouterError> {
        let counted = self.count()?;
        self.found.note(counted, SystemTime::now());
        let wanted = self.wanted_table();
        let dump = self.nft.table(TABLE, MOST_RULES)?;
        let changes = dump.as_ref().and_then(|dump| shared_changes(dump.table.clone(), wanted.clone()));
        let found = match (dump, changes) {
            (Some(dump), Some(changes)) => {
                let mut found = self.put_shared_back(&changes.missing, dump.generation)?;
                found.extend(self.compare_elements(&wanted)?);
                found.extend(self.remove_left(&changes.left)?);
                found
            }
            (dump, _) => vec![Difference::of_rules(self.make_anew(&wanted, dump)?)],
        };
        self.generation = self.nft.generation()?;
        Ok(found)
    }

    /// Makes shared rules that are missing. No element leads to them yet.
    fn put_shared_back(&mut self, names: &[String], generation: u32) -> Result<Vec<Difference>, RouterError> {
        let mut batch = Batch::if_unchanged(generation);
        let mut found = Vec::new();
        let all = self.all_shared();
        for rules in names.iter().filter_map(|name| all.get(name.as_str())) {
            add_shared(&mut batch, rules);
            let text = format!("the router lacked the rules \"{}\"; they were put back", rules.name);
            found.push(Difference::of_rules(text));
        }
        if !batch.is_empty() {
            self.nft.commit(batch)?;
        }
        Ok(found)
    }

    /// Removes shared rules that nobody needs. No element leads to them any more.
    fn remove_left(&mut self, left: &Part) -> Result<Vec<Difference>, RouterError> {
        if left.is_empty() {
            return Ok(Vec::new());
        }
        let mut batch = Batch::if_unchanged(self.nft.generation()?);
        remove_part(&mut batch, &left.sets, &left.chains);
        self.nft.commit(batch)?;
        Ok(vec![Difference::of_rules("the router had rules that nobody needs; they were removed".to_owned())])
    }

    /// The table with all rules that tenants share.
    fn wanted_table(&self) -> Table {
        let mut table = router::table(&self.settings);
        for rules in self.all_shared().into_values() {
            table.sets.extend(rules.sets.iter().cloned());
            table.chains.extend(rules.chains.iter().cloned());
        }
        table
    }

    /// The elements of all sets but those that count.
    fn wanted_elements(&self) -> Elements {
        let mut all = router::common(&self.settings);
        let shared = self.all_shared().into_values().flat_map(|rules| [&rules.elements, &rules.leads]);
        for elements in shared.chain(self.tenants.values().map(|desired| &desired.elements)) {
            for (set, elements) in elements {
                all.entry(set.clone()).or_default().extend(elements.iter().cloned());
            }
        }
        // What was used since a tenant was connected is used also when its volume is put back.
        let months = self.tenants.iter().filter_map(|(name, desired)| {
            desired.volume().map(|bytes| router::month(desired.number, bytes, self.usage.used(name)))
        });
        all.insert(MONTH.to_owned(), months.collect());
        all
    }

    /// Makes the table as it should be, whatever it was. Sets that count stay.
    fn make_anew(&mut self, wanted: &Table, dump: Option<TableDump>) -> Result<String, RouterError> {
        let stays = |name: &str| router::counts(name) || router::counts_connections(name);
        let keeps = |set: &Set| stays(&set.name) && wanted.sets.iter().any(|other| is_same(other, set));
        let kept = dump.iter().flat_map(|dump| &dump.table.sets).filter(|set| keeps(set));
        if kept.filter(|set| [SENT, RECEIVED].contains(&set.name.as_str())).count() < 2 {
            self.usage.counts_begin_anew();
        }
        // What was counted until now is written down before it may be lost.
        self.usage.save().map_err(RouterError::Usage)?;
        step::reach(Step::AnewRules)?;
        let mut batch = Batch::new();
        let what = match dump {
            None => "the router had no rules; it has them again".to_owned(),
            Some(dump) => {
                batch.flush_table(TABLE);
                for set in dump.table.sets.iter().filter(|set| !keeps(set)) {
                    batch.delete_set(TABLE, &set.name);
                }
                for chain in &dump.table.chains {
                    batch.delete_chain(TABLE, &chain.name);
                }
                "the rules of the router were not as they should be; they were made anew".to_owned()
            }
        };
        batch.add_table(TABLE);
        batch.add_contents(wanted);
        let sets: BTreeMap<_, _> = wanted.sets.iter().map(|set| (set.name.as_str(), set)).collect();
        let elements = self.wanted_elements();
        let counters: Vec<_> = self.tenants.values().map(|desired| router::counters(desired.number)).collect();
        for (set, elements) in std::iter::once(&elements).chain(&counters).flatten() {
            if let Some(set) = sets.get(set.as_str()) {
                batch.add_elements(TABLE, set, elements);
            }
        }
        self.nft.commit(batch)?;
        Ok(what)
    }

    /// Puts elements right that are missing or that nobody planned; returns what differed.
    fn compare_elements(&mut self, wanted: &Table) -> Result<Vec<Difference>, RouterError> {
        let generation = self.nft.generation()?;
        let planned = self.wanted_elements();
        let counters: Elements = self.tenants.values().flat_map(|desired| router::counters(desired.number)).fold(
            Elements::new(),
            |mut all, (set, elements)| {
                all.entry(set).or_default().extend(elements);
                all
            },
        );
        let mut found = Vec::new();
        let mut lacks_counts = false;
        let mut batch = Batch::if_unchanged(generation);
        for set in wanted.sets.iter().filter(|set| !router::grows_by_itself(&set.name)) {
            let there = self.nft.elements(TABLE, set, MOST_ELEMENTS)?;
            let plain =
                |elements: &[Element]| elements.iter().cloned().map(Element::without_state).collect::<BTreeSet<_>>();
            let there = plain(&there);
            let of = |all: &Elements| plain(all.get(&set.name).map_or(&[][..], Vec::as_slice));
            let wanted = if router::counts(&set.name) { of(&counters) } else { of(&planned) };
            let missing: Vec<_> = wanted.difference(&there).cloned().collect();
            // Who was a tenant keeps its counts.
            let foreign: Vec<_> = there.difference(&wanted).filter(|_| !router::counts(&set.name)).cloned().collect();
            batch.delete_elements(TABLE, set, &foreign);
            // The volumes of jails that have ended are left there: the next one may start at once.
            let is_odd = |element: &&Element| set.name != MONTH || !self.is_of_tenant(element);
            let odd: Vec<_> = foreign.iter().filter(is_odd).cloned().collect();
            found.extend(self.by_tenant(&odd, |count| {
                format!("the router had {count} of \"{}\" that nobody planned; removed", set.name)
            }));
            if !missing.is_empty() {
                lacks_counts |= router::counts(&set.name);
                found.extend(
                    self.by_tenant(&missing, |count| {
                        format!("the router lacked {count} of \"{}\"; put back", set.name)
                    }),
                );
                // With what was used until now.
                let keys: BTreeSet<_> = missing.iter().map(|element| &element.key).collect();
                let planned = planned.get(&set.name).into_iter().chain(counters.get(&set.name)).flatten();
                batch.add_elements(TABLE, set, planned.filter(|element| keys.contains(&element.key)));
            }
        }
        if lacks_counts {
            // These begin at zero, which must be known before they do.
            self.usage.save().map_err(RouterError::Usage)?;
        }
        if !batch.is_empty() {
            self.nft.commit(batch)?;
        }
        Ok(found)
    }
}

/// What the kernel says of something that is not there (`errno(3)`).
pub(super) const NO_ENTRY: i32 = 2;

/// Whether something is gone: also when a comparison has removed it meanwhile, because somebody else has changed the rules.
fn is_gone(removed: Result<(), RouterError>) -> Result<(), RouterError> {
    match removed {
        Err(RouterError::Netlink(error)) if error.errno() == Some(NO_ENTRY) => Ok(()),
        other => other,
    }
}

/// Removes shared rules that no tenant needs any more, and what leads to them.
fn remove_shared(batch: &mut Batch, sets: &BTreeMap<String, Set>, rules: &SharedRules) {
    change(batch, sets, &rules.leads, &Elements::new());
    remove_part(batch, &rules.sets, &rules.chains);
}

/// Removes shared rules that nothing leads to any more.
fn remove_part(batch: &mut Batch, sets: &[Set], chains: &[Chain]) {
    for chain in chains {
        batch.flush_chain(TABLE, &chain.name);
    }
    for chain in chains {
        batch.delete_chain(TABLE, &chain.name);
    }
    for set in sets {
        batch.delete_set(TABLE, &set.name);
    }
}

impl Router {
    /// Whether an element is of somebody who is or was a tenant with a network.
    fn is_of_tenant(&self, element: &Element) -> bool {
        router::parse_key(&element.key).is_some_and(|(number, _)| self.usage.tenant(number).is_some())
    }

    /// A difference for each tenant that elements are of, as far as their keys name a link. `text` says how many, such as
    /// "2 elements".
    fn by_tenant(&self, elements: &[Element], text: impl Fn(&str) -> String) -> Vec<Difference> {
        let names: BTreeMap<u32, &TenantName> = self.usage.numbers().map(|(name, number)| (number, name)).collect();
        let mut counts: BTreeMap<Option<TenantName>, usize> = BTreeMap::new();
        for element in elements {
            let name = router::parse_key(&element.key).and_then(|(number, _)| names.get(&number));
            *counts.entry(name.map(|name| (*name).clone())).or_default() += 1;
        }
        let difference = |(tenant, count)| {
            let count = if count == 1 { "1 element".to_owned() } else { format!("{count} elements") };
            Difference::of_elements(tenant, text(&count))
        };
        counts.into_iter().map(difference).collect()
    }
}

fn sets_by_name() -> BTreeMap<String, Set> {
    router::sets().into_iter().map(|set| (set.name.clone(), set)).collect()
}

fn is_same(one: &Set, other: &Set) -> bool {
    let plain = |set: &Set| Table { sets: vec![set.clone()], ..Table::default() }.comparable();
    plain(one) == plain(other)
}

/// Adds shared rules that are not there.
fn add_shared(batch: &mut Batch, rules: &SharedRules) {
    for set in &rules.sets {
        batch.add_set(TABLE, set);
        batch.add_elements(TABLE, set, rules.elements.get(&set.name).into_iter().flatten());
    }
    for chain in &rules.chains {
        batch.add_chain(TABLE, chain);
        batch.replace_rules(TABLE, &chain.name, &chain.rules);
    }
}

/// Deletes the elements that are only in `old`, and adds those that are only in `new`. Counts and quotas of the others go on.
fn change(batch: &mut Batch, sets: &BTreeMap<String, Set>, old: &Elements, new: &Elements) {
    let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    for (name, set) in names.into_iter().filter_map(|name| Some((name, sets.get(name)?))) {
        let of = |all: &Elements| all.get(name).cloned().unwrap_or_default();
        let (old, new) = (of(old), of(new));
        let is_in = |all: &[Element], element: &Element| {
            all.iter().any(|other| other.clone().without_state() == element.clone().without_state())
        };
        batch.delete_elements(TABLE, set, old.iter().filter(|element| !is_in(&new, element)));
        batch.add_elements(TABLE, set, new.iter().filter(|element| !is_in(&old, element)));
    }
}
