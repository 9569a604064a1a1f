//! Reads and writes the settings that a plan gives and a tenant may override.

use crate::diagnostic::Problem;
use crate::model::Settings;
use crate::reader::{Report, Section, Table, distinct, parsed, switch, text};
use crate::{host_sockets, limits, mail, network, notices, services, sleep};
use bailiwick_types::{
    Door, HostSocketName, ImageName, Limits, LoginName, Nesting, Network, NetworkMode, Notice, Profile,
};
use std::collections::BTreeSet;
use toml::Spanned;
use toml::de::DeValue;

/// The section with the limits, in the files of plans and tenants.
pub(crate) const LIMITS: Section = Section { title: "below [limits]", keys: limits::KEYS };

/// The values of settings that neither the tenant nor a plan has.
pub(crate) fn defaults() -> Settings {
    Settings {
        image: "host".parse().expect("a name"),
        profile: Profile::Web,
        nesting: Nesting::Refused,
        doors: BTreeSet::from([Door::Exec]),
        suspended_doors: BTreeSet::new(),
        limits: Limits::default(),
        services: Vec::new(),
        sleep: None,
        mail: None,
        host_sockets: BTreeSet::new(),
        network: Network::default(),
        notices: Vec::new(),
    }
}

/// The settings that one file makes.
#[derive(Debug)]
pub(crate) struct Declared {
    image: Option<ImageName>,
    profile: Option<Profile>,
    nesting: Option<Nesting>,
    doors: Option<BTreeSet<Door>>,
    suspended_doors: Option<BTreeSet<Door>>,
    limits: limits::Declared,
    services: services::Declared,
    sleep: sleep::Declared,
    mail: mail::Declared,
    host_sockets: Option<BTreeSet<HostSocketName>>,
    network: network::Declared,
    notices: Vec<Notice>,
    inherit_notices: bool,
}

impl Declared {
    /// Reads the settings from the top table of a file. `login` is the tenant's login user; a plan does not know it.
    pub(crate) fn read(
        report: &mut Report<'_>,
        top: &Table<'_, '_>,
        file: &'static [Section],
        login: Option<&LoginName>,
    ) -> Self {
        let mut doors = |key, parse: fn(&DeValue<'_>) -> Result<Door, Problem>| {
            let doors = top.list(report, key, parse)?;
            Some(distinct(report, doors.into_inner(), Door::to_string).into_iter().collect())
        };
        let (doors, suspended_doors) = (doors("doors", parsed), doors("suspended_doors", suspended_door));
        Self {
            image: top.read(report, "image", parsed).map(Spanned::into_inner),
            profile: top.read(report, "profile", parsed).map(Spanned::into_inner),
            nesting: top.read(report, "nesting", switch).map(|nests| Nesting::from(nests.into_inner())),
            doors,
            suspended_doors,
            limits: match top.table(report, "limits", &LIMITS, file) {
                Some(table) => limits::Declared::read(report, &table),
                None => limits::Declared::nothing(),
            },
            services: services::Declared::read(report, top, file, login),
            sleep: sleep::Declared::read(report, top, file),
            mail: mail::Declared::read(report, top, file),
            host_sockets: host_sockets::read_names(report, top),
            network: network::Declared::read(report, top, file),
            notices: notices::read(report, top, file),
            inherit_notices: top.read(report, "inherit_notices", switch).is_none_or(Spanned::into_inner),
        }
    }

    /// Returns these settings, with those of `inherited` for the missing ones.
    pub(crate) fn apply(self, report: &mut Report<'_>, inherited: &Settings) -> Settings {
        let mut limits = inherited.limits.clone();
        self.limits.apply(report, &mut limits);
        let place = self.network.mode_place().or(self.sleep.after_place());
        let (sleep, network) =
            (self.sleep.apply(report, inherited.sleep), self.network.apply(report, &inherited.network));
        // What both files before this one say was judged there.
        if let Some(place) = place.filter(|_| sleep.is_some() && network.mode == NetworkMode::Published) {
            report.error(place, network::published_sleeper);
        }
        Settings {
            image: self.image.unwrap_or_else(|| inherited.image.clone()),
            profile: self.profile.unwrap_or(inherited.profile),
            nesting: self.nesting.unwrap_or(inherited.nesting),
            doors: self.doors.unwrap_or_else(|| inherited.doors.clone()),
            suspended_doors: self.suspended_doors.unwrap_or_else(|| inherited.suspended_doors.clone()),
            limits,
            services: self.services.apply(report, &inherited.services),
            sleep,
            mail: self.mail.apply(report, inherited.mail),
            host_sockets: self.host_sockets.unwrap_or_else(|| inherited.host_sockets.clone()),
            network,
            notices: notices::apply(self.notices, if self.inherit_notices { &inherited.notices } else { &[] }),
        }
    }
}

/// Reads a door that may stay open while a tenant is suspended.
fn suspended_door(value: &DeValue<'_>) -> Result<Door, Problem> {
    let word = text(value)?;
    Door::OF_THE_SUSPENDED.iter().copied().find(|door| door.word() == word).ok_or_else(|| {
        Problem::new(format!("no door {word:?} can stay open while a tenant is suspended"))
            .hint("\"sftp\" and \"ftp\" can, for reading; [] closes all")
    })
}

/// Writes every setting: the keys for the top of a file, and the tables. A table in TOML goes on until the next one, so the
/// tables must come after all keys of the top. They hold all services, so the plan's own are not to be inherited again.
pub(crate) fn write(settings: &Settings) -> (String, String) {
    let list = |doors: &BTreeSet<Door>| doors.iter().map(|door| format!("\"{door}\"")).collect::<Vec<_>>().join(", ");
    let Settings {
        image,
        profile,
        nesting,
        doors,
        suspended_doors,
        limits,
        services,
        sleep,
        mail,
        host_sockets,
        network,
        notices,
    } = settings;
    let nesting = *nesting == Nesting::Allowed;
    let (doors, suspended_doors) = (list(doors), list(suspended_doors));
    let top = format!(
        "image = \"{image}\"\nprofile = \"{profile}\"\nnesting = {nesting}\ndoors = [{doors}]\nsuspended_doors = [{suspended_doors}]\n\
         inherit_services = false\ninherit_notices = false\n{}",
        host_sockets::write_names(host_sockets)
    );
    let (sleep, mail, network) = (sleep::write(*sleep), mail::write(*mail), network::write(network));
    let notices = notices::write(notices);
    (top, [limits::write(limits), sleep, mail, network, notices, services::write(services)].concat())
}
