//! Mail: whom a notice goes to, what it says, and how it leaves the host.

use crate::sendmail::{MailResult, Program, Running, hand_over};
use crate::state::{Delivery, Payload};
use crate::target::{Outcome, Settings, Target};
use bailiwick_notice::{Occasion, Templates, Values};
use bailiwick_types::{
    ByteSize, Contact, Event, MailAddress, Moment, NoticeLanguage, NoticeResource, NoticesHost, Period, Recipient,
    TargetKind, TenantName, TenantNotices, Threshold,
};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use lettre::message::header::{Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// How long `sendmail` may take for one message.
const SEND_TIME: Duration = Duration::from_secs(60);
/// The most lines of a digest.
const MOST_LINES: usize = 1000;

/// What a notice tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    /// The tenant.
    pub tenant: TenantName,
    /// What it is about.
    pub resource: NoticeResource,
    /// What has happened.
    pub kind: NewsKind,
    /// The use, if it is known.
    pub used: Option<u64>,
    /// The limit, if there is one.
    pub limit: Option<u64>,
    /// When the grace period is over.
    pub grace_until: Option<Moment>,
    /// When it was noticed.
    pub at: Moment,
    /// The language of whoever is told.
    pub language: NoticeLanguage,
}

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NewsKind {
    /// A threshold was passed.
    Passed(Threshold),
    /// All thresholds of the rule are clear again.
    Cleared,
}

impl fmt::Display for NewsKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed(threshold) => threshold.fmt(f),
            Self::Cleared => f.pad("cleared"),
        }
    }
}

/// The addresses of a rule, each with its language.
pub(crate) fn addresses(
    to: &BTreeSet<Recipient>,
    tenant: &TenantNotices,
    host: &NoticesHost,
) -> BTreeMap<MailAddress, NoticeLanguage> {
    let of_host = host.contact.language.unwrap_or(NoticeLanguage::En);
    let of_tenant = tenant.contact.language.unwrap_or(of_host);
    let mut all = BTreeMap::new();
    let mut add = |contact: &Contact, language| {
        for address in &contact.mail {
            all.entry(address.clone()).or_insert(language);
        }
    };
    // The tenant comes first: the operator of one tenant alone may be the same person.
    for recipient in to {
        match recipient {
            Recipient::Tenant => add(&tenant.contact, of_tenant),
            Recipient::Admin => add(&host.contact, of_host),
            Recipient::Address(address) => {
                add(&Contact { mail: [address.clone()].into(), language: None }, of_host);
            }
        }
    }
    all
}

/// The header that keeps automatic replies away (RFC 3834).
#[derive(Debug, Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

/// Sends mail.
#[derive(Debug)]
pub struct Mail {
    /// Where the operator's templates are.
    config: PathBuf,
    /// What makes message ids of this host its own.
    node: String,
    running: Running,
}

impl Mail {
    /// Sends mail with the templates below a configuration directory.
    #[must_use]
    pub fn new(config: PathBuf) -> Self {
        let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { config, node, running: Running::default() }
    }

    /// Sends a test to an address.
    pub(crate) fn test(&self, to: &MailAddress, language: NoticeLanguage, whose: &str, settings: &Settings) -> Outcome {
        let (templates, _) = Templates::read(&self.config);
        let now = crate::state::now();
        let mut values = self.values(now);
        values.insert("tenant", whose.to_owned());
        let (subject, text) = templates.get(language, Occasion::Test).fill(&values);
        self.send(to, (&subject, text), (&format!("test-{}", now.0), &[]), settings)
    }

    fn values(&self, at: Moment) -> Values {
        Values::from([("host", self.node.clone()), ("time", time(at))])
    }

    fn text_of(&self, news: &News, templates: &Templates) -> (String, String) {
        let occasion = match news.kind {
            NewsKind::Passed(Threshold::Percent(_)) => Occasion::Near,
            NewsKind::Passed(Threshold::Soft) => Occasion::Soft,
            NewsKind::Passed(Threshold::Grace(_)) => Occasion::Grace,
            NewsKind::Passed(Threshold::Hard) => Occasion::Hard,
            NewsKind::Cleared => Occasion::Cleared,
        };
        let unknown = || "?".to_owned();
        let amount = |amount: Option<u64>| amount.map_or_else(unknown, |amount| amount_of(news.resource, amount));
        let share = news.used.zip(news.limit.filter(|limit| *limit > 0));
        let share = share.map(|(used, limit)| u128::from(used) * 100 / u128::from(limit));
        let left = news.grace_until.map(|until| left(until.0.saturating_sub(news.at.0)));
        let mut values = self.values(news.at);
        values.extend([
            ("tenant", news.tenant.to_string()),
            ("resource", resource(news.resource, news.language).to_owned()),
            ("used", amount(news.used)),
            ("limit", amount(news.limit)),
            ("percent", share.map_or_else(unknown, |share| format!("{share} %"))),
            ("left", left.unwrap_or_else(unknown)),
        ]);
        templates.get(news.language, occasion).fill(&values)
    }

    /// Sends a message to an address: its subject and text, its name, and the deliveries that it is of.
    fn send(
        &self,
        to: &MailAddress,
        (subject, text): (&str, String),
        (id, of): (&str, &[u64]),
        settings: &Settings,
    ) -> Outcome {
        let host = &settings.host;
        let domain = host.mail_domain.clone().unwrap_or_else(bailiwick_observe::mail_domain);
        let Ok(sender) = format!("bailiwick@{domain}").parse::<MailAddress>() else {
            return Outcome::Again(format!(
                "{domain:?} is no domain that mail can come from; set it in bailiwick.toml: mail = {{ domain = ... }}"
            ));
        };
        let message = match message(&sender, to, subject, text, &format!("<{id}.{}@{domain}>", self.node)) {
            Ok(message) => message,
            Err(error) => return Outcome::Never(format!("no message can be made of it: {error}")),
        };
        let program = Program::new(&host.mail_command, SEND_TIME);
        hand_over(&self.running, &program, [&sender, to], &message, of).into()
    }
}

impl From<MailResult> for Outcome {
    fn from(result: MailResult) -> Self {
        match result {
            MailResult::Taken => Self::Delivered,
            MailResult::NotNow(why) => Self::Again(why),
            MailResult::Refused(why) => Self::Never(why),
        }
    }
}

impl Target for Mail {
    fn kind(&self) -> TargetKind {
        TargetKind::Mail
    }

    fn targets_of(&self, _: &Event, _: &Settings) -> Vec<String> {
        Vec::new()
    }

    fn earlier(&self, delivery: &Delivery) -> Option<Outcome> {
        self.running.earlier(delivery.id).map(Outcome::from)
    }

    fn deliver(&self, delivery: &Delivery, settings: &Settings) -> Outcome {
        let (Ok(to), Payload::Notice(news)) = (delivery.queue.target.parse(), &delivery.payload) else {
            return Outcome::Never("it is no notice for an address of mail".to_owned());
        };
        let (templates, _) = Templates::read(&self.config);
        let (subject, text) = self.text_of(news, &templates);
        self.send(&to, (&subject, text), (&id(delivery), &[delivery.id]), settings)
    }

    fn deliver_together(&self, deliveries: &[Delivery], settings: &Settings) -> Outcome {
        let (templates, _) = Templates::read(&self.config);
        let news: Vec<&News> = deliveries
            .iter()
            .filter_map(|delivery| if let Payload::Notice(news) = &delivery.payload { Some(news) } else { None })
            .collect();
        let (Some(first), Some(of_first)) = (deliveries.first(), news.first()) else {
            return Outcome::Never("there is no notice in it".to_owned());
        };
        let Ok(to) = first.queue.target.parse() else {
            return Outcome::Never("it is no address of mail".to_owned());
        };
        let mut lines: String = news
            .iter()
            .take(MOST_LINES)
            .map(|news| format!("{}  {}\n", time(news.at), self.text_of(news, &templates).0))
            .collect();
        if news.len() > MOST_LINES {
            lines.push_str(&format!("... {}\n", news.len() - MOST_LINES));
        }
        let mut values = self.values(crate::state::now());
        values.extend([("count", news.len().to_string()), ("lines", lines)]);
        let (subject, text) = templates.get(of_first.language, Occasion::Digest).fill(&values);
        let of: Vec<u64> = deliveries.iter().map(|delivery| delivery.id).collect();
        self.send(&to, (&subject, text), (&format!("digest-{}", id(first)), &of), settings)
    }
}

/// What a delivery is called in message ids. It is the same at each attempt, so a mailbox can tell a second copy.
fn id(delivery: &Delivery) -> String {
    format!("{}-{}", delivery.id, delivery.created.0)
}

fn message(
    sender: &MailAddress,
    to: &MailAddress,
    subject: &str,
    text: String,
    id: &str,
) -> Result<Vec<u8>, Box<dyn Error>> {
    let mailbox = |name: Option<&str>, address: &MailAddress| -> Result<Mailbox, Box<dyn Error>> {
        let (local, domain) = address.parts();
        Ok(Mailbox::new(name.map(str::to_owned), lettre::Address::new(local, domain)?))
    };
    let message = Message::builder()
        .from(mailbox(Some("Bailiwick"), sender)?)
        .to(mailbox(None, to)?)
        .subject(subject)
        .date(SystemTime::now())
        .message_id(Some(id.to_owned()))
        .header(AutoSubmitted)
        .header(lettre::message::header::ContentType::TEXT_PLAIN)
        .body(text)?;
    // sendmail(1) takes the ends of lines of this system.
    let bytes = message.formatted();
    Ok(String::from_utf8(bytes)?.replace("\r\n", "\n").into_bytes())
}

fn time(at: Moment) -> String {
    let at = i64::try_from(at.0).ok().and_then(|at| Timestamp::from_second(at).ok()).unwrap_or_default();
    at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M %:z").to_string()
}

/// Time that is left, in its largest unit.
fn left(seconds: u64) -> String {
    let unit = [86_400, 3600, 60].into_iter().find(|unit| seconds >= *unit).unwrap_or(60);
    Period(seconds.div_ceil(unit) * unit).to_string()
}

fn amount_of(resource: NoticeResource, amount: u64) -> String {
    match resource {
        NoticeResource::Disk | NoticeResource::Memory | NoticeResource::Swap | NoticeResource::Network => {
            ByteSize(amount).rounded()
        }
        NoticeResource::Inodes | NoticeResource::Tasks | NoticeResource::Sessions => amount.to_string(),
    }
}

/// The words for a resource.
fn resource(resource: NoticeResource, language: NoticeLanguage) -> &'static str {
    use NoticeResource::{Disk, Inodes, Memory, Network, Sessions, Swap, Tasks};
    let (en, de) = match resource {
        Disk => ("disk space", "Speicherplatz"),
        Inodes => ("number of files", "Anzahl der Dateien"),
        Memory => ("memory", "Arbeitsspeicher"),
        Swap => ("swap space", "Auslagerungsspeicher"),
        Tasks => ("number of processes and threads", "Anzahl der Prozesse und Threads"),
        Sessions => ("number of sessions", "Anzahl der Sitzungen"),
        Network => ("network volume of the month", "Netzvolumen des Monats"),
    };
    match language {
        NoticeLanguage::En => en,
        NoticeLanguage::De => de,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(kind: NewsKind, language: NoticeLanguage) -> News {
        News {
            tenant: "alice".parse().expect("a name"),
            resource: NoticeResource::Disk,
            kind,
            used: Some(85 << 30),
            limit: Some(100 << 30),
            grace_until: Some(Moment(2 * 86_400 + 61)),
            at: Moment(61),
            language,
        }
    }

    #[test]
    fn every_kind_of_news_has_its_words_in_every_language() {
        let mail = Mail { node: "host.example".to_owned(), ..Mail::new(PathBuf::from("/nonexistent")) };
        let templates = Templates::embedded();
        let mut subjects = BTreeSet::new();
        for language in NoticeLanguage::ALL {
            for word in ["80%", "soft", "grace:2d", "hard"] {
                let kind = NewsKind::Passed(word.parse().expect("a threshold"));
                let (subject, text) = mail.text_of(&news(kind, language), &templates);
                assert!(text.contains("host.example") && !text.contains('{') && !text.contains('?'), "{text}");
                subjects.insert(subject);
            }
            subjects.insert(mail.text_of(&news(NewsKind::Cleared, language), &templates).0);
        }
        assert_eq!(subjects.len(), 10);
        assert!(subjects.contains("alice: 85 % of disk space used"), "{subjects:?}");
        assert!(subjects.contains("alice: noch 2d Frist (Speicherplatz)"), "{subjects:?}");
    }

    #[test]
    fn a_message_has_headers_of_its_own_and_nothing_of_others() {
        let [from, to] = ["bailiwick@host.example", "a+b@c"].map(|text| text.parse().expect("an address"));
        let made = message(&from, &to, "Grenze überschritten", "ä\nb\n".to_owned(), "<1-2.host@host.example>")
            .expect("is made");
        let text = String::from_utf8(made).expect("text");
        let (head, body) = text.split_once("\n\n").expect("a head");
        for line in [
            "From: Bailiwick <bailiwick@host.example>",
            "To: a+b@c",
            "Message-ID: <1-2.host@host.example>",
            "Auto-Submitted: auto-generated",
            "Content-Type: text/plain; charset=utf-8",
        ] {
            assert!(head.lines().any(|other| other == line), "{line} is not in\n{head}");
        }
        assert!(head.is_ascii() && !text.contains('\r') && !body.is_empty(), "{text}");
        let hostile = message(&from, &to, "a\nBcc: b@c", String::new(), "<1@x>").expect("is made");
        let hostile = String::from_utf8(hostile).expect("text");
        assert!(!hostile.lines().any(|line| line.to_ascii_lowercase().starts_with("bcc")), "{hostile}");
    }

    #[test]
    fn time_that_is_left_is_rounded_up() {
        for (seconds, golden) in
            [(0, "0s"), (1, "1m"), (60, "1m"), (3599, "1h"), (3600, "1h"), (90_000, "2d"), (172_800, "2d")]
        {
            assert_eq!(left(seconds), golden);
        }
    }
}
