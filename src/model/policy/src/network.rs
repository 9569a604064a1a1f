//! Reads and writes `[network]` of plans and tenants: whether a jail has a network, and what it may do there.
//!
//! Danger: what is read here becomes the rules of a packet filter. A list that is inherited must be replaced as a whole, and
//! a word that is not understood must never become "everything".

use crate::diagnostic::Problem;
use crate::limits::bounded;
use crate::mail::up_to;
use crate::reader::{Report, Section, Span, Table, distinct, expected, meant, number, parsed, switch, text};
use bailiwick_types::{
    Allow, Bound, ByteRate, ByteSize, Destination, DestinationError, MonthlyVolume, Network, NetworkMode, Port, Ports,
    Prefix, PrefixError, Publish, WhenOver,
};
use std::fmt::Display;
use toml::Spanned;
use toml::de::DeValue;

pub(crate) const NETWORK: Section = Section {
    title: "below [network]",
    keys: &["mode", "allow", "ports", "smtp", PUBLISH_KEY, "up", "down", "month", "connections"],
};
pub(crate) const ALLOW: Section = Section { title: "in an entry of \"allow\"", keys: &["to", "ports"] };
pub(crate) const PUBLISH: Section = Section { title: "in an entry of \"publish\"", keys: &["host", "to"] };
pub(crate) const MONTH: Section = Section { title: "in \"month\"", keys: &["bytes", "then", "notify"] };

const PUBLISH_KEY: &str = "publish";

const MAX_ALLOW: usize = 256;
const MAX_PORTS: usize = 64;
const MAX_PUBLISH: usize = 64;
const MAX_NOTIFY: usize = 16;
/// The lowest rate: below it one packet of 1500 bytes takes a fifth of a second.
const MIN_RATE: ByteRate = ByteRate(8 << 10);
/// The highest rate and volume. No machine moves as much, and "unlimited" says the same.
const MAX_BYTES: u64 = 1 << 50;
const DESTINATION: &str = "write a prefix such as \"192.0.2.0/24\", or the name of a host such as \"example.org\", without \"https://\", port and path";
const RATE: &str = "from 8K a second, such as \"20M\" (bytes) or \"100Mbit\", or \"unlimited\"";
const SHAPE: &str = "a rate from 8K a second, such as \"shape 1M\" or \"shape 10Mbit\"";
const VOLUME: &str = "from 1M to 1024T; for no bound write month = \"unlimited\"";

/// What one file says of a network, with the places of what others may contradict.
#[derive(Debug, Default)]
pub(crate) struct Declared {
    mode: Option<Spanned<NetworkMode>>,
    allow: Option<Vec<Spanned<Allow>>>,
    ports: Option<Vec<Spanned<Ports>>>,
    smtp: Option<Spanned<bool>>,
    publish: Option<Spanned<Vec<Publish>>>,
    up: Option<Bound<ByteRate>>,
    down: Option<Bound<ByteRate>>,
    month: Option<Option<MonthlyVolume>>,
    connections: Option<u32>,
    /// The first key but `mode`, and its place. It has no effect without a network.
    other: Option<(&'static str, Span)>,
    is_unreadable: bool,
}

impl Declared {
    /// Reads `[network]` from the top table of a file.
    pub(crate) fn read(report: &mut Report<'_>, top: &Table<'_, '_>, file: &'static [Section]) -> Self {
        let problems = report.count();
        let mut declared = Self::default();
        if let Some(table) = top.filled_table(report, "network", &NETWORK, file) {
            declared.read_keys(report, &table, file);
        }
        declared.is_unreadable = report.count() > problems;
        declared
    }

    fn read_keys(&mut self, report: &mut Report<'_>, table: &Table<'_, '_>, file: &'static [Section]) {
        // Programs write "inherit" into a tenant's file. It means the same as a missing line.
        let sets = |key: &'static str| table.get(key).is_some_and(|value| value.get_ref().as_str() != Some("inherit"));
        for key in NETWORK.keys.iter().copied().filter(|key| sets(key)) {
            match key {
                "mode" => self.mode = table.read(report, key, parsed),
                "allow" => self.allow = read_allow(report, table, file),
                "ports" => self.ports = read_ports(report, table).map(Spanned::into_inner),
                "smtp" => self.smtp = table.read(report, key, switch),
                "publish" => self.publish = read_publish(report, table, file),
                "up" => self.up = table.read(report, key, rate).map(Spanned::into_inner),
                "down" => self.down = table.read(report, key, rate).map(Spanned::into_inner),
                "month" => self.month = read_month(report, table, file),
                _ => self.connections = table.read(report, key, connections).map(Spanned::into_inner),
            }
            if let Some(value) = table.get(key).filter(|_| key != "mode" && self.other.is_none()) {
                self.other = Some((key, value.span()));
            }
        }
    }

    /// The place of the mode.
    pub(crate) fn mode_place(&self) -> Option<Span> {
        self.mode.as_ref().map(Spanned::span)
    }

    /// Returns this network, with the inherited values for those that are missing. Without a network nothing is inherited.
    pub(crate) fn apply(self, report: &mut Report<'_>, inherited: &Network) -> Network {
        if self.is_unreadable {
            return inherited.clone();
        }
        let mode = self.mode.as_ref().map_or(inherited.mode, |mode| *mode.get_ref());
        if mode == NetworkMode::None {
            if let Some((key, place)) = self.other {
                report.error(place, || {
                    Problem::new(format!("\"{key}\", but the tenant has no network"))
                        .hint("add mode = \"outbound\" or mode = \"published\", or remove this line")
                });
            }
            return Network::default();
        }
        let defaults = Network::with_mode(mode);
        let base = if inherited.mode == NetworkMode::None { &defaults } else { inherited };
        let smtp = self.smtp.as_ref().map_or(base.smtp, |smtp| *smtp.get_ref());
        if !smtp {
            self.refuse_smtp(report, base);
        }
        if let Some(publish) = self.publish.as_ref().filter(|_| mode != NetworkMode::Published) {
            report.error(publish.span(), || {
                Problem::new(format!("\"publish\" with mode = \"{mode}\""))
                    .hint("write mode = \"published\", or remove this line")
            });
        }
        let publish = self.publish.map_or_else(|| base.publish.clone(), Spanned::into_inner);
        Network {
            mode,
            allow: self.allow.map_or_else(|| base.allow.clone(), values),
            ports: self.ports.map_or_else(|| base.ports.clone(), values),
            smtp,
            publish: if mode == NetworkMode::Published { publish } else { Vec::new() },
            up: self.up.unwrap_or(base.up),
            down: self.down.unwrap_or(base.down),
            month: self.month.unwrap_or_else(|| base.month.clone()),
            connections: self.connections.unwrap_or(base.connections),
        }
    }

    /// Reports ports for mail that `smtp = false` refuses.
    fn refuse_smtp(&self, report: &mut Report<'_>, base: &Network) {
        let of_allow = |allow: &Allow| allow.ports.iter().flatten().copied().find(|ports| ports.is_smtp());
        let ports = self.ports.iter().flatten().filter(|ports| ports.get_ref().is_smtp());
        let mut refused: Vec<_> = ports.map(|ports| (*ports.get_ref(), ports.span(), None)).collect();
        refused.extend(
            self.allow.iter().flatten().filter_map(|item| Some((of_allow(item.get_ref())?, item.span(), None))),
        );
        // The other half of the contradiction may be inherited.
        if let Some(smtp) = &self.smtp {
            let inherited = base.ports.iter().copied().filter(|ports| ports.is_smtp() && self.ports.is_none());
            refused.extend(inherited.map(|ports| (ports, smtp.span(), Some("ports"))));
            let inherited = base.allow.iter().filter_map(of_allow).filter(|_| self.allow.is_none());
            refused.extend(inherited.map(|ports| (ports, smtp.span(), Some("allow"))));
        }
        for (ports, place, inherited) in refused {
            report.error(place, || {
                let problem = Problem::new(format!("\"{ports}\" is for mail, which smtp = false refuses"));
                match inherited {
                    Some(key) => problem.hint(format!("\"{key}\" is inherited; set it in this file too")),
                    None => problem.hint("write smtp = true, or remove it: [mail] sends through the host"),
                }
            });
        }
    }
}

fn values<T>(items: Vec<Spanned<T>>) -> Vec<T> {
    items.into_iter().map(Spanned::into_inner).collect()
}

/// Reports a list with more than `most` items.
pub(crate) fn at_most<T>(report: &mut Report<'_>, list: &Spanned<Vec<T>>, most: usize, what: &str) {
    if list.get_ref().len() > most {
        report.error(list.span(), || {
            Problem::new(format!("more than {most} {what}")).hint("take out those that nobody uses")
        });
    }
}

/// Reports items of which a part is in the list twice.
fn distinct_by<T, K: Ord + Display>(report: &mut Report<'_>, items: &[Spanned<T>], part: impl Fn(&T) -> K) {
    distinct(report, items.iter().map(|item| Spanned::new(item.span(), part(item.get_ref()))).collect(), K::to_string);
}

fn read_allow(report: &mut Report<'_>, table: &Table<'_, '_>, file: &'static [Section]) -> Option<Vec<Spanned<Allow>>> {
    let list = table.items(report, "allow", |report, item| read_allowed(report, item, file))?;
    at_most(report, &list, MAX_ALLOW, "destinations");
    distinct_by(report, list.get_ref(), |allow| allow.to.clone());
    Some(list.into_inner())
}

fn read_allowed(
    report: &mut Report<'_>,
    item: &Spanned<DeValue<'_>>,
    file: &'static [Section],
) -> Option<Spanned<Allow>> {
    let Some(entries) = item.get_ref().as_table() else {
        let to = report.accept(item.span(), destination(item.get_ref()))?.into_inner();
        return Some(Spanned::new(item.span(), Allow { to, ports: None }));
    };
    let entry = Table::new(report, entries, &ALLOW, file);
    if is_missing(&entry, "to", &ALLOW) {
        report.error(item.span(), || {
            Problem::new("the entry has no \"to\"").hint("write where it leads, such as to = \"example.org\"")
        });
    }
    let to = entry.read(report, "to", destination);
    let mut ports = None;
    if let Some(value) = entry.get("ports") {
        let own = read_ports(report, &entry)?;
        if value.get_ref().as_array().is_some_and(|ports| ports.is_empty()) {
            report.error(value.span(), || Problem::new("nothing may be sent there").hint("remove the whole entry"));
        }
        if let Some(dns) = own.get_ref().iter().find(|ports| *ports.get_ref() == Ports::Dns) {
            report.error(dns.span(), || {
                Problem::new("\"dns\" leads to the resolvers, and not to this destination")
                    .hint("write it into \"ports\" below [network]")
            });
        }
        ports = Some(values(own.into_inner()));
    }
    Some(Spanned::new(item.span(), Allow { to: to?.into_inner(), ports }))
}

/// Whether nobody wrote a key, not even wrongly.
fn is_missing(table: &Table<'_, '_>, key: &'static str, section: &Section) -> bool {
    table.get(key).is_none() && !table.keys().any(|other| meant(other, section) == Some(key))
}

fn destination(value: &DeValue<'_>) -> Result<Destination, Problem> {
    let to = text(value)?.parse().map_err(|error| match error {
        DestinationError::Prefix(error @ PrefixError::NotPrefix { .. }) => Problem::from(error).hint(DESTINATION),
        DestinationError::Prefix(error) => not_prefix(&error),
        DestinationError::Name(error) => Problem::from(error).hint(DESTINATION),
    })?;
    if let Destination::Prefix(prefix) = to
        && let Some(blocked) = prefix.always_blocked()
    {
        let (what, source) = (blocked.what, blocked.source);
        return Err(Problem::new(format!(
            "\"{prefix}\" is always blocked: \"{}\" is {what} ({source})",
            blocked.prefix
        ))
        .hint("remove it; [[link]] leads to another tenant, and host_sockets to a service of the host"));
    }
    Ok(to)
}

/// Reads a prefix.
pub(crate) fn prefix(value: &DeValue<'_>) -> Result<Prefix, Problem> {
    text(value)?.parse().map_err(|error| not_prefix(&error))
}

fn not_prefix(error: &PrefixError) -> Problem {
    let problem = Problem::new(error.to_string());
    match (error, error.right()) {
        (PrefixError::HostBits { address, .. }, Some(right)) => {
            problem.hint(format!("write \"{right}\", or \"{address}\" for the one address"))
        }
        (_, Some(right)) => problem.hint(format!("write \"{right}\"")),
        (_, None) => problem.hint("write one such as \"192.0.2.0/24\" or \"2001:db8::/32\""),
    }
}

fn read_ports(report: &mut Report<'_>, table: &Table<'_, '_>) -> Option<Spanned<Vec<Spanned<Ports>>>> {
    let ports = table.list(report, "ports", parsed::<Ports>)?;
    at_most(report, &ports, MAX_PORTS, "ports");
    distinct_by(report, ports.get_ref(), |ports| *ports);
    Some(ports)
}

fn read_publish(
    report: &mut Report<'_>,
    table: &Table<'_, '_>,
    file: &'static [Section],
) -> Option<Spanned<Vec<Publish>>> {
    let list = table.items(report, "publish", |report, item| read_published(report, item, file))?;
    at_most(report, &list, MAX_PUBLISH, "published ports");
    distinct_by(report, list.get_ref(), |publish| publish.host_port());
    Some(Spanned::new(list.span(), values(list.into_inner())))
}

fn read_published(
    report: &mut Report<'_>,
    item: &Spanned<DeValue<'_>>,
    file: &'static [Section],
) -> Option<Spanned<Publish>> {
    let example = "{ host = \"tcp/40132\", to = \"tcp/22\" }";
    let Some(entries) = item.get_ref().as_table() else {
        report.error(item.span(), || expected(&format!("a table such as {example}"), item.get_ref()));
        return None;
    };
    let entry = Table::new(report, entries, &PUBLISH, file);
    for key in PUBLISH.keys.iter().copied().filter(|key| is_missing(&entry, key, &PUBLISH)) {
        report.error(item.span(), || {
            Problem::new(format!("the entry has no \"{key}\"")).hint(format!("write both ports, such as {example}"))
        });
    }
    let (host, to) = (entry.read(report, "host", parsed::<Port>), entry.read(report, "to", parsed::<Port>));
    let (host, to) = (host?.into_inner(), to?);
    let place = to.span();
    let to = to.into_inner();
    if host.transport != to.transport {
        report.error(place, || {
            Problem::new(format!("\"{host}\" cannot lead to \"{to}\""))
                .hint(format!("write \"{}/{}\": both ports have one transport", host.transport, to.number))
        });
    }
    Some(Spanned::new(item.span(), Publish { transport: host.transport, host: host.number, to: to.number }))
}

fn rate(value: &DeValue<'_>) -> Result<Bound<ByteRate>, Problem> {
    bounded(value, MIN_RATE, ByteRate(MAX_BYTES), RATE)
}

fn read_month(
    report: &mut Report<'_>,
    table: &Table<'_, '_>,
    file: &'static [Section],
) -> Option<Option<MonthlyVolume>> {
    let value = table.get("month")?;
    if value.get_ref().as_str() == Some("unlimited") {
        return Some(None);
    }
    if value.get_ref().as_table().is_none() {
        report.error(value.span(), || {
            let volume = volume(value.get_ref()).unwrap_or(ByteSize(200 << 30));
            expected("a table, or \"unlimited\"", value.get_ref()).hint(format!(
                "write month = {{ bytes = \"{volume}\", then = \"stop\" }}, or what else is to happen then"
            ))
        });
        return None;
    }
    let month = table.table(report, "month", &MONTH, file)?;
    for (key, example) in [("bytes", "bytes = \"200G\""), ("then", "then = \"stop\"")] {
        if is_missing(&month, key, &MONTH) {
            report.error(value.span(), || {
                Problem::new(format!("the month has no \"{key}\"")).hint(format!("write one such as {example}"))
            });
        }
    }
    let bytes = month.read(report, "bytes", volume);
    let then = month.read(report, "then", when_over);
    let notify = match month.get("notify") {
        Some(_) => read_notify(report, &month)?,
        None => MonthlyVolume::NOTIFY.to_vec(),
    };
    let then = then?;
    if *then.get_ref() == WhenOver::Notify && notify.is_empty() {
        report.error(then.span(), || {
            Problem::new("then = \"notify\" without a share to notify at").hint("write notify = [80, 100]")
        });
    }
    Some(Some(MonthlyVolume { bytes: bytes?.into_inner(), then: then.into_inner(), notify }))
}

fn volume(value: &DeValue<'_>) -> Result<ByteSize, Problem> {
    bounded(value, ByteSize(1 << 20), ByteSize(MAX_BYTES), VOLUME)
}

fn when_over(value: &DeValue<'_>) -> Result<WhenOver, Problem> {
    let then = parsed(value)?;
    match then {
        WhenOver::Shape(rate) if rate < MIN_RATE => {
            Err(Problem::new(format!("the value is below {MIN_RATE}")).hint(SHAPE))
        }
        WhenOver::Shape(ByteRate(rate)) if rate > MAX_BYTES => {
            Err(Problem::new(format!("the value is above {}", ByteRate(MAX_BYTES))).hint(SHAPE))
        }
        _ => Ok(then),
    }
}

fn read_notify(report: &mut Report<'_>, month: &Table<'_, '_>) -> Option<Vec<u8>> {
    let problems = report.count();
    let hint = "write numbers from 1 to 100, such as [80, 95]";
    let list = month.list(report, "notify", |value| {
        match number::<u8>(value).map_err(|problem| problem.or_hint(hint))? {
            share @ 1..=100 => Ok(share),
            share => Err(Problem::new(format!("{share} per cent of a volume")).hint(hint)),
        }
    })?;
    at_most(report, &list, MAX_NOTIFY, "shares");
    for pair in list.get_ref().windows(2) {
        let (before, share) = (pair[0].get_ref(), &pair[1]);
        if share.get_ref() <= before {
            report.error(share.span(), || {
                Problem::new(format!("{} comes after {before}", share.get_ref())).hint("write them in ascending order")
            });
        }
    }
    (report.count() == problems).then(|| values(list.into_inner()))
}

fn connections(value: &DeValue<'_>) -> Result<u32, Problem> {
    up_to(value, Network::MIN_CONNECTIONS, Network::MAX_CONNECTIONS, "connections at a time")
}

/// The problem of a tenant that nobody reaches although it is published.
pub(crate) fn nothing_published() -> Problem {
    Problem::new("mode = \"published\", but no port leads into the jail")
        .hint("write one such as publish = [{ host = \"tcp/40132\", to = \"tcp/22\" }], or mode = \"outbound\"")
}

/// The problem of a published tenant that sleeps.
pub(crate) fn published_sleeper() -> Problem {
    Problem::new("mode = \"published\", but the tenant sleeps, and then nothing listens")
        .hint("write after = \"never\" below [sleep], or have nginx (stream) pass connections to a socket of a service")
}

/// The settings of a network by key, each as it is written in a file.
#[must_use]
pub fn network_settings(network: &Network) -> Vec<(&'static str, String)> {
    let Network { mode, allow, ports, smtp, publish, up, down, month, connections } = network;
    let allow = list(allow.iter().map(|Allow { to, ports }| match ports {
        None => quoted(to),
        Some(ports) => format!("{{ to = \"{to}\", ports = {} }}", list(ports.iter().map(quoted))),
    }));
    let publish = list(publish.iter().map(|Publish { transport, host, to }| {
        format!("{{ host = \"{transport}/{host}\", to = \"{transport}/{to}\" }}")
    }));
    let month = month.as_ref().map_or_else(
        || quoted(&"unlimited"),
        |MonthlyVolume { bytes, then, notify }| {
            format!("{{ bytes = \"{bytes}\", then = \"{then}\", notify = {} }}", list(notify.iter().map(u8::to_string)))
        },
    );
    vec![
        ("mode", quoted(mode)),
        ("allow", allow),
        ("ports", list(ports.iter().map(quoted))),
        ("smtp", smtp.to_string()),
        (PUBLISH_KEY, publish),
        ("up", quoted(up)),
        ("down", quoted(down)),
        ("month", month),
        ("connections", connections.to_string()),
    ]
}

/// Writes the network. None is written too: an inherited one must not come back.
pub(crate) fn write(network: &Network) -> String {
    let is_written = |key: &str| match network.mode {
        NetworkMode::None => key == "mode",
        NetworkMode::Outbound => key != PUBLISH_KEY,
        NetworkMode::Published => true,
    };
    let settings = network_settings(network).into_iter().filter(|(key, _)| is_written(key));
    settings.fold("\n[network]\n".to_owned(), |text, (key, value)| text + key + " = " + &value + "\n")
}

/// The text of a value that needs no escapes, in quotes.
pub(crate) fn quoted(value: &impl Display) -> String {
    format!("\"{value}\"")
}

/// A list of values that are written already.
pub(crate) fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests;
