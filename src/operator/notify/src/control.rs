//! The socket on which root asks what waits and what was given up, tests the way, and has deliveries tried again.
//!
//! Danger: its directory belongs to this program's user, and nobody else but root enters it. Each peer is checked all the same.

use crate::engine::{Engine, complain};
use crate::mail::{Mail, addresses};
use crate::state::NoRoom;
use crate::target::Outcome;
use bailiwick_proto::frame::{MAX_REPLY, MAX_REQUEST};
use bailiwick_proto::notify::{NoticeStatus, NotifyReply, NotifyRequest, NotifyStatus};
use bailiwick_proto::{Failure, Incoming, time_limits, transport};
use bailiwick_sys::socket;
use bailiwick_types::{ExitStatus, MailAddress, NoticeLanguage, Recipient, TenantName};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a client may take to read a reply.
const WRITE_TIME: Duration = Duration::from_secs(10);

/// Makes the socket in place of one that an earlier process has left.
///
/// # Errors
/// Why it cannot be made.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

/// Answers one client after another, for ever.
pub fn serve(engine: &Engine, mail: &Mail, listener: &UnixListener) {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                // A client may leave at any time.
                answer(engine, mail, &stream).ok();
            }
            Err(error) => {
                complain(&format!("cannot accept a connection: {error}"));
                if engine.pause(Duration::from_millis(100)) {
                    return;
                }
            }
        }
    }
}

fn answer(engine: &Engine, mail: &Mail, stream: &UnixStream) -> Result<(), bailiwick_proto::TransportError> {
    stream.set_write_timeout(Some(WRITE_TIME))?;
    let is_root = socket::peer(stream).is_ok_and(|peer| peer.uid == 0);
    let deadline = Instant::now() + time_limits::REQUEST;
    let (request, _) = transport::receive::<NotifyRequest>(stream, &mut Incoming::new(MAX_REQUEST, 0), deadline)?;
    let reply = if is_root {
        reply_to(engine, mail, request).unwrap_or_else(NotifyReply::Failed)
    } else {
        NotifyReply::Failed(Failure::of(ExitStatus::Refused, "only root may ask bailiwick-notify"))
    };
    transport::send(stream, &reply, MAX_REPLY, &[])
}

fn reply_to(engine: &Engine, mail: &Mail, request: NotifyRequest) -> Result<NotifyReply, Failure> {
    let failed = |error| Failure::new(ExitStatus::Failed, &error);
    Ok(match request {
        NotifyRequest::Status => {
            let (waiting, dead) = engine.counts().map_err(failed)?;
            let NoRoom { lost, held } = engine.no_room().map_err(failed)?;
            NotifyReply::Status(NotifyStatus { waiting, dead, lost, held })
        }
        NotifyRequest::List { tenants } => NotifyReply::List(list(engine, &tenants)?),
        NotifyRequest::Test { tenant } => NotifyReply::Tested(test(engine, mail, tenant.as_ref())?),
        NotifyRequest::Waiting => NotifyReply::Failures(engine.failures(false).map_err(failed)?),
        NotifyRequest::Dead => NotifyReply::Failures(engine.failures(true).map_err(failed)?),
        NotifyRequest::Retry { ids } => NotifyReply::Retried(engine.retry(&ids).map_err(failed)?),
    })
}

fn no_policy() -> Failure {
    Failure::of(ExitStatus::Failed, "bailiwick-notify has not heard from bailiwickd yet; see its log")
}

fn list(engine: &Engine, tenants: &[TenantName]) -> Result<Vec<NoticeStatus>, Failure> {
    let settings = engine.known_settings().ok_or_else(no_policy)?;
    if let Some(unknown) = tenants.iter().find(|tenant| !settings.tenants.contains_key(*tenant)) {
        return Err(bailiwick_proto::Refusal::UnknownTenant { tenant: unknown.clone() }.into());
    }
    let told = engine.told().map_err(|error| Failure::new(ExitStatus::Failed, &error))?;
    let meant = settings.tenants.values().filter(|tenant| tenants.is_empty() || tenants.contains(&tenant.tenant));
    let of_rule = meant.flat_map(|tenant| tenant.notices.iter().map(move |notice| (tenant, notice)));
    let row = |(tenant, notice): (&bailiwick_types::TenantNotices, &bailiwick_types::Notice)| {
        let to = crate::thresholds::recipients(notice);
        let is_its = |key: &crate::thresholds::ToldKey| {
            key.tenant == tenant.tenant && key.resource == notice.resource && key.to == to
        };
        let mine = told.iter().filter(|(key, _)| is_its(key));
        let open: Vec<_> = mine.filter_map(|(key, known)| Some((key.threshold, known.at, known.open()?))).collect();
        NoticeStatus {
            tenant: tenant.tenant.clone(),
            notice: notice.clone(),
            addresses: addresses(&notice.to, tenant, &settings.host).into_keys().collect(),
            told: open.iter().map(|(threshold, at, _)| (*threshold, *at)).collect(),
            clear_since: open.iter().filter_map(|(threshold, _, clear)| Some((*threshold, (*clear)?))).collect(),
        }
    };
    Ok(of_rule.map(row).collect())
}

fn test(
    engine: &Engine,
    mail: &Mail,
    tenant: Option<&TenantName>,
) -> Result<BTreeMap<MailAddress, Option<String>>, Failure> {
    let settings = engine.known_settings().ok_or_else(no_policy)?;
    let nobody = |whose: &str, file: &str| {
        let message = format!(
            "{whose} has no address; add [contact] with mail = [...] to {file}, which is read once a minute (`notices.every`)"
        );
        Failure::of(ExitStatus::Refused, message)
    };
    let (to, whose) = match tenant {
        None if settings.host.contact.mail.is_empty() => return Err(nobody("the operator", "bailiwick.toml")),
        None => {
            let language = settings.host.contact.language.unwrap_or(NoticeLanguage::En);
            let to: BTreeMap<_, _> = settings.host.contact.mail.iter().map(|mail| (mail.clone(), language)).collect();
            (to, "all".to_owned())
        }
        Some(name) => {
            let unknown = || Failure::from(bailiwick_proto::Refusal::UnknownTenant { tenant: name.clone() });
            let tenant = settings.tenants.get(name).ok_or_else(unknown)?;
            let to = addresses(&[Recipient::Tenant].into(), tenant, &settings.host);
            if to.is_empty() {
                return Err(nobody(&format!("the tenant \"{name}\""), &format!("tenants.d/{name}.toml")));
            }
            (to, name.to_string())
        }
    };
    let sent = |(address, language): (MailAddress, NoticeLanguage)| {
        let why = match mail.test(&address, language, &whose, &settings) {
            Outcome::Delivered | Outcome::Unwanted => None,
            Outcome::Again(why) | Outcome::Later(why, _) | Outcome::Never(why) => Some(why),
        };
        (address, why)
    };
    Ok(to.into_iter().map(sent).collect())
}
