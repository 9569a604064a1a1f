//! Reads and writes `[[notice]]` and `[contact]`: whom to tell of the use of a resource, and when.
//!
//! The rules of a file for a resource take the place of those that it inherits for the same resource: a tenant's, over its plan's,
//! over the host's.

use crate::diagnostic::Problem;
use crate::items;
use crate::limits::bounded;
use crate::model::{Host, Policy, Settings, Tenant};
use crate::place::Place;
use crate::reader::{Report, Section, Table, distinct, parsed, text};
use bailiwick_types::{
    Contact, LimitKey, LimitValue, MailAddress, Notice, NoticeLanguage, NoticeResource, Period, Recipient, Threshold,
};
use std::collections::BTreeSet;
use toml::Spanned;
use toml::de::DeValue;

pub(crate) const NOTICE: Section =
    Section { title: "below [[notice]]", keys: &["resource", "at", "clear", "to", "repeat"] };
pub(crate) const CONTACT: Section = Section { title: "below [contact]", keys: &["mail", "language"] };

const MAX_NOTICES: usize = 32;
const MAX_RECIPIENTS: usize = 16;
const REPEAT: &str = "from 1h to 365d";

/// Reads the rules of a file.
pub(crate) fn read(report: &mut Report<'_>, top: &Table<'_, '_>, file: &'static [Section]) -> Vec<Notice> {
    let mut known: BTreeSet<(NoticeResource, BTreeSet<Recipient>)> = BTreeSet::new();
    let notices = items::tables(report, top, "notice", &NOTICE, |report, entry| {
        let notice = read_notice(report, entry, file)?;
        if !known.insert((notice.resource, notice.to.clone())) {
            report.error(entry.span(), || {
                Problem::new(format!("two notices tell the same people of \"{}\"", notice.resource))
                    .hint("write all thresholds into one \"at\"")
            });
        }
        Some(notice)
    });
    if let Some(list) = top.get("notice").filter(|_| notices.len() > MAX_NOTICES) {
        report.error(list.span(), || Problem::new(format!("more than {MAX_NOTICES} notices")));
    }
    notices
}

fn read_notice(report: &mut Report<'_>, entry: &Spanned<DeValue<'_>>, file: &'static [Section]) -> Option<Notice> {
    let problems = report.count();
    let table = items::table(report, entry, "notice", &NOTICE, file, 2)?;
    let resource: Option<Spanned<NoticeResource>> = table.read(report, "resource", parsed);
    let at = table.list(report, "at", |value| threshold(value, resource.as_ref().map(|resource| *resource.get_ref())));
    let at: Option<BTreeSet<Threshold>> =
        at.map(|at| distinct(report, at.into_inner(), Threshold::to_string).into_iter().collect());
    let to = table.list(report, "to", parsed::<Recipient>);
    let recipients: BTreeSet<Recipient> =
        to.map(|to| distinct(report, to.into_inner(), Recipient::to_string).into_iter().collect()).unwrap_or_default();
    let share = at.as_ref().and_then(Notice::lowest_share);
    let clear = table.read(report, "clear", |value| clear(value, share));
    let repeat = table.read(report, "repeat", |value| bounded(value, Period(3600), Period(365 * 86_400), REPEAT));
    if report.count() > problems {
        return None;
    }
    let (resource, at) = (resource?.into_inner(), at?);
    if recipients.len() > MAX_RECIPIENTS {
        report.error(entry.span(), || Problem::new(format!("a notice to more than {MAX_RECIPIENTS}")));
    }
    if at.is_empty() != recipients.is_empty() {
        report.error(entry.span(), || {
            let problem = Problem::new(if at.is_empty() { "the notice is never told" } else { "the notice has no \"to\"" });
            problem.hint("write to = [\"tenant\"], \"admin\" or addresses; at = [] without \"to\" takes an inherited notice away")
        });
    }
    let clear = clear.map_or_else(|| Notice::default_clear(&at), Spanned::into_inner);
    Some(Notice { resource, at, clear, to: recipients, repeat: repeat.map(Spanned::into_inner) })
}

fn threshold(value: &DeValue<'_>, resource: Option<NoticeResource>) -> Result<Threshold, Problem> {
    let threshold: Threshold = parsed(value)?;
    let Some(resource) = resource else { return Ok(threshold) };
    let needs_soft = matches!(threshold, Threshold::Soft | Threshold::Grace(_));
    if needs_soft && !resource.has_soft() {
        let problem =
            Problem::new(format!("\"{resource}\" has no soft limit, so nobody would be told at \"{threshold}\""));
        return Err(problem.hint("\"disk\" and \"inodes\" have one; write a share such as \"90%\""));
    }
    if threshold == Threshold::Hard && resource == NoticeResource::Network {
        return Err(Problem::new("nobody would be told at \"hard\"").hint("write \"100%\" for the whole volume"));
    }
    Ok(threshold)
}

/// Reads the share below which a notice is clear.
fn clear(value: &DeValue<'_>, lowest: Option<u8>) -> Result<u8, Problem> {
    let Threshold::Percent(share) = parsed(value)? else {
        return Err(Problem::new("\"clear\" is a share of the limit").hint("write one such as \"75%\""));
    };
    match lowest {
        None => Err(Problem::new("\"clear\" without a share in \"at\" clears nothing")
            .hint("remove it: \"soft\", \"grace\" and \"hard\" are clear when the limit is kept again")),
        Some(lowest) if share >= lowest => Err(Problem::new(format!("\"{share}%\" is not below \"{lowest}%\""))
            .hint(format!("write a share below the lowest of \"at\", such as \"{}%\"", lowest.saturating_sub(5)))),
        Some(_) => Ok(share),
    }
}

/// Reads `[contact]`.
pub(crate) fn read_contact(report: &mut Report<'_>, top: &Table<'_, '_>, file: &'static [Section]) -> Contact {
    let Some(table) = top.filled_table(report, "contact", &CONTACT, file) else { return Contact::default() };
    let mail = table.list(report, "mail", parsed::<MailAddress>);
    if let Some(mail) = mail.as_ref().filter(|mail| mail.get_ref().len() > MAX_RECIPIENTS) {
        report.error(mail.span(), || Problem::new(format!("more than {MAX_RECIPIENTS} addresses")));
    }
    let mail = mail.map(|mail| distinct(report, mail.into_inner(), MailAddress::to_string).into_iter().collect());
    Contact {
        mail: mail.unwrap_or_default(),
        language: table.read(report, "language", language).map(Spanned::into_inner),
    }
}

fn language(value: &DeValue<'_>) -> Result<NoticeLanguage, Problem> {
    Ok(text(value)?.parse()?)
}

/// The rules of a file on top of those that it inherits.
pub(crate) fn apply(own: Vec<Notice>, inherited: &[Notice]) -> Vec<Notice> {
    let is_replaced = |notice: &&Notice| own.iter().any(|own| own.resource == notice.resource);
    let kept: Vec<Notice> = inherited.iter().filter(|notice| !is_replaced(notice)).cloned().collect();
    kept.into_iter().chain(own).collect()
}

impl Policy {
    /// The rules for a tenant: its own and its plan's, and those of the host for other resources. Rules that only take others
    /// away are left out.
    #[must_use]
    pub fn notices_of(&self, tenant: &Tenant) -> Vec<Notice> {
        let mut notices = apply(tenant.settings.notices.clone(), &self.host.default_notices);
        notices.retain(|notice| !notice.at.is_empty());
        notices
    }

    /// Whether anybody may be told of anything.
    #[must_use]
    pub fn gives_notices(&self) -> bool {
        self.tenants.values().any(|tenant| !self.notices_of(tenant).is_empty())
    }
}

/// The rules that go to the operator, when `bailiwick.toml` does not say where that is.
pub(crate) fn without_admin(notices: &[Notice], contact: &Contact) -> Option<(Place, Problem)> {
    let is_lost = contact.mail.is_empty() && notices.iter().any(|notice| notice.to.contains(&Recipient::Admin));
    is_lost.then(|| {
        let problem = Problem::new("a notice to \"admin\", and bailiwick.toml has no address of the operator");
        (Place::Key("notice".into()), problem.hint("add [contact] with mail = [\"ops@example.org\"] to bailiwick.toml"))
    })
}

/// The rules of a tenant's own file that tell nobody: those to the tenant without an address, and those of what has no limit.
pub(crate) fn of_tenant(tenant: &Tenant, inherited: &Settings) -> Vec<(Place, Problem)> {
    let own = tenant.settings.notices.iter().filter(|notice| !inherited.notices.contains(notice));
    let mut all = Vec::new();
    for notice in own {
        if notice.to.contains(&Recipient::Tenant) && tenant.contact.mail.is_empty() {
            let problem = Problem::new("a notice to \"tenant\", and the tenant has no address");
            let hint = "add [contact] with mail = [\"alice@example.org\"], or write another \"to\"";
            all.push((Place::Key("notice".into()), problem.hint(hint)));
        }
        all.extend(without_limit(&tenant.settings, notice).map(|problem| (Place::Key("notice".into()), problem)));
    }
    all
}

/// The problem of a rule about something that the tenant has no limit of.
fn without_limit(settings: &Settings, notice: &Notice) -> Option<Problem> {
    let resource = notice.resource;
    let value = match resource {
        NoticeResource::Network => settings.network.month.as_ref().map(|_| LimitValue::from(1_u64)),
        _ => resource.word().parse::<LimitKey>().ok().and_then(|key| settings.limits.value(key)),
    };
    let (soft, hard) = match value {
        Some(LimitValue::At(pair)) => (Some(pair.soft), Some(pair.hard)),
        Some(LimitValue::WithMemory(both)) => (None, Some(both)),
        Some(LimitValue::Unlimited) | None => (None, None),
    };
    let needs_soft = notice.at.iter().any(|threshold| matches!(threshold, Threshold::Soft | Threshold::Grace(_)));
    if notice.at.is_empty() {
        None
    } else if hard.is_none() {
        let what = if resource == NoticeResource::Network { "volume of the month" } else { "limit" };
        let problem = Problem::new(format!("a notice about \"{resource}\", and the tenant has no such {what}"));
        Some(problem.hint("set the limit, or remove the notice"))
    } else if needs_soft && soft == hard {
        let problem = Problem::new(format!("a notice at the soft limit of \"{resource}\", and the tenant has none"));
        Some(problem.hint(format!("write both, such as {resource} = \"10G:11G\", or remove it from \"at\"")))
    } else {
        None
    }
}

/// The rules of `bailiwick.toml` that tell nobody.
pub(crate) fn of_host(host: &Host) -> Option<(Place, Problem)> {
    without_admin(&host.default_notices, &host.contact)
}

/// Writes rules.
pub(crate) fn write(notices: &[Notice]) -> String {
    let list = |items: Vec<String>| items.iter().map(|item| format!("\"{item}\"")).collect::<Vec<_>>().join(", ");
    let one = |notice: &Notice| {
        let Notice { resource, at, clear, to, repeat } = notice;
        let mut text = format!(
            "\n[[notice]]\nresource = \"{resource}\"\nat = [{}]\nto = [{}]\n",
            list(at.iter().map(Threshold::to_string).collect()),
            list(to.iter().map(Recipient::to_string).collect()),
        );
        if *clear != Notice::default_clear(at) {
            text.push_str(&format!("clear = \"{clear}%\"\n"));
        }
        text.extend(repeat.map(|repeat| format!("repeat = \"{repeat}\"\n")));
        text
    };
    notices.iter().map(one).collect()
}

/// Writes `[contact]`.
pub(crate) fn write_contact(contact: &Contact) -> String {
    if contact.is_empty() {
        return String::new();
    }
    let mail: Vec<String> = contact.mail.iter().map(|mail| format!("\"{mail}\"")).collect();
    let language = contact.language.map(|language| format!("language = \"{language}\"\n")).unwrap_or_default();
    format!("\n[contact]\nmail = [{}]\n{language}", mail.join(", "))
}
