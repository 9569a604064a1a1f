//! Reads and writes `mail` of `bailiwick.toml`, and `[mail]` of plans and tenants: whether a tenant may send mail through the
//! host's `sendmail`, and how much.

use crate::diagnostic::Problem;
use crate::host::directory;
use crate::limits::bounded;
use crate::model::HostMail;
use crate::reader::{Report, Section, Span, Table, number, text};
use bailiwick_types::{ByteSize, Mail, TenantName, is_domain};
use std::path::PathBuf;
use toml::Spanned;
use toml::de::DeValue;

pub(crate) const HOST_MAIL: Section = Section { title: "in \"mail\"", keys: &["command", "domain"] };
pub(crate) const MAIL: Section = Section { title: "below [mail]", keys: &["per_hour", "recipients", "size"] };

/// Names that every domain has for its operator (RFC 2142), or that mail programs use themselves.
const OF_THE_OPERATOR: &[&str] = &["abuse", "hostmaster", "mailer-daemon", "postmaster", "webmaster"];
const SIZE: &str = "from 64K to 100M";

/// Reads how the host sends mail.
pub(crate) fn read_host(report: &mut Report<'_>, top: &Table<'_, '_>, file: &'static [Section]) -> HostMail {
    let mut mail = HostMail::default();
    if let Some(table) = top.table(report, "mail", &HOST_MAIL, file) {
        if let Some(command) = table.read(report, "command", command) {
            mail.command = command.into_inner();
        }
        mail.domain = table.read(report, "domain", domain).map(Spanned::into_inner);
    }
    mail
}

fn command(value: &DeValue<'_>) -> Result<PathBuf, Problem> {
    let command = directory(value)?;
    let text = command.to_string_lossy();
    match text.split_once(char::is_whitespace) {
        Some((program, _)) => Err(Problem::new(format!("{text:?} is a program with arguments"))
            .hint(format!("write the program alone, such as {program:?}: its arguments are always the same"))),
        None => Ok(command),
    }
}

fn domain(value: &DeValue<'_>) -> Result<String, Problem> {
    let domain = text(value)?;
    if is_domain(domain) {
        Ok(domain.to_owned())
    } else {
        Err(Problem::new(format!("{domain:?} is no domain")).hint("write one such as \"example.org\""))
    }
}

/// What one file says of a tenant's mail.
#[derive(Debug)]
pub(crate) struct Declared {
    per_hour: Option<u32>,
    recipients: Option<u32>,
    size: Option<ByteSize>,
    /// The place of a limit without a `per_hour` of this file. It has no effect without an inherited one.
    others: Option<Span>,
}

impl Declared {
    /// Reads `[mail]` from the top table of a file.
    pub(crate) fn read(report: &mut Report<'_>, top: &Table<'_, '_>, file: &'static [Section]) -> Self {
        let Some(table) = top.filled_table(report, "mail", &MAIL, file) else {
            return Self { per_hour: None, recipients: None, size: None, others: None };
        };
        let of = |key| table.get(key).filter(|_| table.get("per_hour").is_none()).map(Spanned::span);
        let others = of("recipients").or_else(|| of("size"));
        let most = Mail::MOST_PER_HOUR;
        let per_hour = table.read(report, "per_hour", |value| up_to(value, 0, most, "messages in an hour"));
        let most = Mail::MOST_RECIPIENTS;
        let recipients = table.read(report, "recipients", |value| up_to(value, 1, most, "recipients of one message"));
        let size = table.read(report, "size", |value| bounded(value, ByteSize(64 << 10), ByteSize(100 << 20), SIZE));
        let (per_hour, recipients) = (per_hour.map(Spanned::into_inner), recipients.map(Spanned::into_inner));
        Self { per_hour, recipients, size: size.map(Spanned::into_inner), others }
    }

    /// Returns these settings, with the inherited ones for those that are missing.
    pub(crate) fn apply(self, report: &mut Report<'_>, inherited: Option<Mail>) -> Option<Mail> {
        let Some(per_hour) = self.per_hour.or(inherited.map(|mail| mail.per_hour)) else {
            if let Some(place) = self.others {
                report.error(place, || {
                    Problem::new("a limit of mail, but the tenant may send none")
                        .hint("add a number such as per_hour = 100, or remove [mail]")
                });
            }
            return None;
        };
        let base = inherited.unwrap_or_default();
        let (recipients, size) = (self.recipients.unwrap_or(base.recipients), self.size.unwrap_or(base.size));
        (per_hour > 0).then_some(Mail { per_hour, recipients, size })
    }
}

/// Reads a number between two ends.
pub(crate) fn up_to(value: &DeValue<'_>, least: u32, most: u32, what: &str) -> Result<u32, Problem> {
    let hint = format!("write a number from {least} to {most}");
    let wanted: u32 = number(value).map_err(|problem: Problem| problem.or_hint(&hint))?;
    if (least..=most).contains(&wanted) { Ok(wanted) } else { Err(Problem::new(format!("{wanted} {what}")).hint(hint)) }
}

/// Why a tenant may not send mail under its name, if it may not. The name is that of the sender of each message.
pub(crate) fn taken(name: &TenantName) -> Option<Problem> {
    OF_THE_OPERATOR.contains(&name.as_str()).then(|| {
        Problem::new(format!(
            "mail from a tenant \"{name}\" would look like the host's own: every domain has such an address"
        ))
        .hint("give the tenant another name, or write per_hour = 0 below [mail]")
    })
}

/// Writes how the host sends mail.
pub(crate) fn write_host(mail: &HostMail) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let command = quoted(&mail.command.to_string_lossy());
    let domain = mail.domain.as_ref().map(|domain| format!(", domain = {}", quoted(domain))).unwrap_or_default();
    format!("mail = {{ command = {command}{domain} }}\n")
}

/// Writes a tenant's mail. No mail is written too: an inherited table must not come back.
pub(crate) fn write(mail: Option<Mail>) -> String {
    let Some(Mail { per_hour, recipients, size }) = mail else { return "\n[mail]\nper_hour = 0\n".to_owned() };
    format!("\n[mail]\nper_hour = {per_hour}\nrecipients = {recipients}\nsize = \"{size}\"\n")
}
