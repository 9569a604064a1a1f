//! Everything that a router has in force, in words that can be compared: rules, elements, links, routes, neighbours and rates, but
//! no counts.

use super::{PATIENCE, Wire};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Instant;

/// What a router has in force.
#[derive(Clone, PartialEq, Eq)]
pub struct RouterState(BTreeSet<String>);

/// Shell lines that print JSON, with a word each and the keys that are different each time.
const LISTS: &[(&str, &str, &[&str])] = &[
    ("link", "ip -j link", &["ifindex", "link_index", "link_netnsid", "stats64", "operstate"]),
    ("address", "ip -j addr", &["ifindex", "link_index", "link_netnsid", "operstate"]),
    ("neighbour", "ip -j neigh show nud permanent", &["ifindex"]),
    ("route", "ip -j route show table all", &["flags"]),
    ("route6", "ip -j -6 route show table all", &["flags"]),
    ("rule", "ip -j rule", &[]),
    ("rule6", "ip -j -6 rule", &[]),
    ("queue", "tc -j qdisc show", &["refcnt", "direct_packets_stat"]),
];

impl RouterState {
    fn add(&mut self, word: &str, value: &Value) {
        self.0.insert(format!("{word} {value}"));
    }

    /// Those of an earlier one that are missing, and those that are new.
    fn difference(&self, earlier: &Self) -> Vec<String> {
        let gone = earlier.0.difference(&self.0).map(|line| format!("- {line}"));
        gone.chain(self.0.difference(&earlier.0).map(|line| format!("+ {line}"))).collect()
    }
}

impl std::fmt::Debug for RouterState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(&self.0).finish()
    }
}

impl Wire {
    /// What the router has in force.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn state(&self) -> RouterState {
        let router = self.router();
        let read = |line: &str| -> Value {
            let text = router.ok(line);
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error}: {text}"))
        };
        let mut state = RouterState(BTreeSet::new());
        for (word, line, changing) in LISTS {
            for mut object in read(line).as_array().cloned().unwrap_or_default() {
                without(&mut object, changing);
                // The kernel chooses the number of a queue where packets wait for a rate.
                if object["kind"] == "pfifo" {
                    without(&mut object, &["handle"]);
                }
                // What the kernel adds by itself follows from the addresses, a moment later.
                if object["protocol"] == "kernel" {
                    continue;
                }
                // The kernel notices a moment later that the other end of a link is up or gone.
                if let Some(flags) = object.get_mut("flags").and_then(Value::as_array_mut) {
                    flags.retain(|flag| flag != "LOWER_UP" && flag != "NO-CARRIER");
                }
                state.add(word, &object);
            }
        }
        // This list is never JSON.
        let classes = router.ok("tc class show dev up0");
        state.0.extend(classes.lines().map(without_leaf));
        let ruleset = read("nft -j list ruleset");
        for object in ruleset["nftables"].as_array().expect("a list") {
            add_rules(&mut state, object);
        }
        state
    }

    /// Asserts that this is in force soon.
    ///
    /// # Panics
    /// When it is not, with what differs.
    #[track_caller]
    pub fn assert_state(&self, expected: &RouterState, when: &str) {
        let begin = Instant::now();
        let mut found = self.state();
        while found != *expected && begin.elapsed() < PATIENCE {
            found = self.state();
        }
        assert!(found == *expected, "{when}:\n{}", found.difference(expected).join("\n"));
    }
}

/// Adds a table, a chain, a rule, or a set with its elements. Rules have an order, which their numbers keep in a chain.
fn add_rules(state: &mut RouterState, object: &Value) {
    let Some((kind, content)) = object.as_object().and_then(|object| object.iter().next()) else { return };
    let mut content = content.clone();
    without(&mut content, &["handle"]);
    match kind.as_str() {
        "metainfo" => {}
        "set" | "map" => {
            let elements = content.as_object_mut().and_then(|set| set.remove("elem"));
            let name = content["name"].as_str().unwrap_or_default().to_owned();
            state.add(kind, &content);
            // Those that the kernel adds with packets.
            let is_number = |rest: &str| rest.starts_with(|first: char| first.is_ascii_digit());
            let counts_connections = name.strip_prefix("connections-").is_some_and(is_number);
            if name == "recorded" || name.starts_with("refused-") || counts_connections {
                return;
            }
            for mut element in elements.iter().flat_map(|elements| elements.as_array()).flatten().cloned() {
                without(&mut element, &["counter", "used", "used_unit", "bytes"]);
                state.add(&format!("element of {name}"), &element);
            }
        }
        "rule" => {
            let chain = content["chain"].clone();
            let before = state.0.iter().filter(|line| line.starts_with(&format!("rule of {chain} "))).count();
            state.add(&format!("rule of {chain} {before:03}"), &content);
        }
        _ => state.add(kind, &content),
    }
}

/// The line of a class without the number of its queue, which the kernel chooses.
fn without_leaf(line: &str) -> String {
    match line.trim().split_once(" leaf ") {
        Some((class, rest)) => format!("{class} {}", rest.split_once(' ').map_or("", |(_, rest)| rest)),
        None => line.trim().to_owned(),
    }
}

/// Removes keys, at any depth.
fn without(value: &mut Value, keys: &[&str]) {
    match value {
        Value::Object(object) => {
            object.retain(|key, _| !keys.contains(&key.as_str()));
            object.values_mut().for_each(|value| without(value, keys));
        }
        Value::Array(array) => array.iter_mut().for_each(|value| without(value, keys)),
        _ => {}
    }
}
