//! Reads the file of a webhook.

use crate::address::{is_listed, refused_address, refused_own_address};
use crate::hook::{missing, time_limit, types};
use crate::secret::Secret;
use crate::trust;
use crate::url::WebhookUrl;
use bailiwick_policy::Diagnostic;
use bailiwick_policy::files::{Problem, Report, Section, Source, Table, expected, parsed, text};
use bailiwick_types::{EventType, Period, Prefix, TargetName};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use toml::Spanned;
use toml::de::DeValue;

/// The keys of the file, and those of a secret in a file of its own.
const FILE: &[Section] = &[
    Section { title: "in the file of a webhook", keys: &["url", "types", "secrets", "allow", "timeout", "roots"] },
    Section { title: "in \"secrets\"", keys: &["file"] },
];

/// The longest time limit, and the one of a file that names none.
const LONGEST: Period = Period(60);
const TIME_LIMIT: Period = Period(15);
/// The most secrets: the one in force and the one that replaces it.
const MOST_SECRETS: usize = 2;

/// A receiver that is sent events by HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Its name, which is that of its file.
    pub name: TargetName,
    /// Where it is.
    pub url: WebhookUrl,
    /// The types of events, each once.
    pub types: Vec<EventType>,
    /// One secret, or two while one replaces the other. Each signs every request.
    pub secrets: Vec<Secret>,
    /// The ranges that are not public, and addresses of this host, that may be reached all the same.
    pub allow: Vec<Prefix>,
    /// How long a request may take in all.
    pub timeout: Period,
    /// A file with the only certificates that may have signed the receiver's; `None` for those of the system.
    pub roots: Option<PathBuf>,
}

impl Webhook {
    /// Why it does not connect to an address; `None` when it does.
    ///
    /// `own` are the addresses that the interfaces of this host have now.
    ///
    /// Danger: this must be asked for the very address that is connected to, after the name was resolved. A name that was judged
    /// before may lead elsewhere now.
    #[must_use]
    pub fn refusal(&self, address: IpAddr, own: &BTreeSet<IpAddr>) -> Option<&'static str> {
        // A public address that is listed is one of a host. It is near only if it is this one.
        let is_near = refused_address(address, &[]).or_else(|| refused_own_address(address, own, &[])).is_some();
        let is_opened = is_near && is_listed(address, &self.allow);
        let is_plain = !self.url.is_secure() && !is_opened;
        refused_address(address, &self.allow)
            .or_else(|| refused_own_address(address, own, &self.allow))
            .or(is_plain.then_some("public, and not reached without TLS"))
    }
}

/// Reads a webhook.
pub(crate) fn read(source: &Source, name: &TargetName, group: Option<u32>) -> Result<Webhook, Vec<Diagnostic>> {
    let mut report = Report::new(source);
    let webhook = read_file(&mut report, name, group);
    match webhook {
        Some(webhook) if report.is_clean() => Ok(webhook),
        _ => Err(report.finish()),
    }
}

fn read_file(report: &mut Report<'_>, name: &TargetName, group: Option<u32>) -> Option<Webhook> {
    let file = report.parse()?;
    let table = Table::new(report, &file, &FILE[0], FILE);
    let url = table.read(report, "url", parsed::<WebhookUrl>);
    if table.get("url").is_none() {
        missing(report, "url", "write where it is sent to, such as url = \"https://panel.example/bailiwick\"");
    }
    let types = types(report, &table, "types");
    let secrets = secrets(report, &table, group);
    let allow = allow(report, &table);
    if let (Some(url), Some(allow)) = (&url, &allow) {
        check_address(report, url, allow);
    }
    let timeout = time_limit(report, &table, TIME_LIMIT, LONGEST);
    let roots = table.read(report, "roots", |value| {
        let path = trust::absolute(text(value)?)?;
        if trust::only_roots(&path)?.is_file() { Ok(path) } else { Err(Problem::new(format!("{path:?} is no file"))) }
    });
    Some(Webhook {
        name: name.clone(),
        url: url?.into_inner(),
        types: types?,
        secrets: secrets?,
        allow: allow?,
        timeout: timeout?,
        roots: roots.map(Spanned::into_inner),
    })
}

/// Records a problem for a host that is written as an address which is not reached, and for one without TLS that may be public.
fn check_address(report: &mut Report<'_>, url: &Spanned<WebhookUrl>, allow: &[Prefix]) {
    if let Some(address) = url.get_ref().address()
        && let Some(what) = refused_address(address, allow)
    {
        let problem = || Problem::new(format!("{address} is not reached: {what}"));
        report.error(url.span(), || problem().hint(format!("if the receiver is there, write allow = [\"{address}\"]")));
    }
    let is_open = match url.get_ref().address() {
        Some(address) => !is_listed(address, allow),
        None => allow.is_empty(),
    };
    if !url.get_ref().is_secure() && is_open {
        report.error(url.span(), || {
            Problem::new("without TLS everybody on the way reads and changes what is sent")
                .hint("write https://, or list the private range of the receiver in \"allow\"")
        });
    }
}

/// Reads the secrets. No problem repeats one.
fn secrets(report: &mut Report<'_>, table: &Table<'_, '_>, group: Option<u32>) -> Option<Vec<Secret>> {
    const HINT: &str = "make one with: echo \"whsec_$(openssl rand -base64 32)\"";
    let list = table.items(report, "secrets", |report, item| {
        let secret = match item.get_ref() {
            DeValue::String(text) => text.parse::<Secret>().map_err(|error| Problem::from(error).hint(HINT)),
            DeValue::Table(entries) => {
                let table = Table::new(report, entries, &FILE[1], FILE);
                let path = table.read(report, "file", |value| trust::absolute(text(value)?))?;
                trust::secret_file(path.get_ref(), group).and_then(|text| {
                    let named = |error| Problem::new(format!("{:?}: {error}", path.get_ref())).hint(HINT);
                    text.parse::<Secret>().map_err(named)
                })
            }
            other => Err(expected("a secret in quotes, or { file = \"...\" }", other)),
        };
        report.accept(item.span(), secret)
    });
    let Some(list) = list else {
        if table.get("secrets").is_none() {
            missing(report, "secrets", HINT);
        }
        return None;
    };
    let place = list.span();
    let secrets: Vec<Secret> = list.into_inner().into_iter().map(Spanned::into_inner).collect();
    if secrets.is_empty() && report.is_clean() {
        report.error(place, || Problem::new("there is no secret, so no receiver could tell who sends").hint(HINT));
    } else if secrets.len() > MOST_SECRETS {
        report.error(place, || {
            Problem::new(format!("there are {} secrets", secrets.len()))
                .hint("two are enough: the one in force, and the one that replaces it")
        });
    } else if secrets.len() == 2 && secrets[0] == secrets[1] {
        report.error(place, || Problem::new("both secrets are the same").hint("take one of them out"));
    }
    Some(secrets)
}

/// Reads the ranges that may be reached beside public addresses that are not this host's.
fn allow(report: &mut Report<'_>, table: &Table<'_, '_>) -> Option<Vec<Prefix>> {
    if table.get("allow").is_none() {
        return Some(Vec::new());
    }
    let list = table.list(report, "allow", |value| {
        let prefix: Prefix = parsed(value)?;
        // A single address may be one of this host. Only the moment of a connection knows.
        if prefix.always_blocked().is_some() || prefix.addresses() == 1 {
            Ok(prefix)
        } else {
            Err(Problem::new(format!("\"{prefix}\" is not inside one range that is refused"))
                .hint("public addresses need not be listed, but for those of this host; write the private range of the receiver"))
        }
    })?;
    Some(list.into_inner().into_iter().map(Spanned::into_inner).collect())
}
