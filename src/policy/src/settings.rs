//! What a plan gives and a tenant may override.

use crate::limits;
use crate::model::Settings;
use crate::reader::{Report, Section, Table, distinct, parsed};
use bailiwick_types::{Door, ImageName, Limits, Profile};
use std::collections::BTreeSet;
use toml::Spanned;

/// The section of the limits, in plans and in tenants' files.
pub(crate) const LIMITS: Section = Section { title: "below [limits]", keys: limits::KEYS };

/// What applies where neither the tenant nor a plan says anything.
pub(crate) fn defaults() -> Settings {
    Settings {
        image: "host".parse().expect("a name"),
        profile: Profile::Web,
        doors: BTreeSet::from([Door::Exec]),
        limits: Limits::default(),
    }
}

/// The settings that one file makes.
#[derive(Debug)]
pub(crate) struct Declared {
    image: Option<ImageName>,
    profile: Option<Profile>,
    doors: Option<BTreeSet<Door>>,
    limits: limits::Declared,
}

impl Declared {
    /// Reads the settings of a plan's or a tenant's file from its top table.
    pub(crate) fn read(report: &mut Report<'_>, top: &Table<'_, '_>, file: &'static [Section]) -> Self {
        Self {
            image: top.read(report, "image", parsed).map(Spanned::into_inner),
            profile: top.read(report, "profile", parsed).map(Spanned::into_inner),
            doors: top
                .list(report, "doors", parsed::<Door>)
                .map(|doors| distinct(report, doors.into_inner(), Door::to_string).into_iter().collect()),
            limits: match top.table(report, "limits", &LIMITS, file) {
                Some(table) => limits::Declared::read(report, &table),
                None => limits::Declared::nothing(),
            },
        }
    }

    /// These settings, and `inherited` where there are none.
    pub(crate) fn apply(self, report: &mut Report<'_>, inherited: &Settings) -> Settings {
        let mut limits = inherited.limits.clone();
        self.limits.apply(report, &mut limits);
        Settings {
            image: self.image.unwrap_or_else(|| inherited.image.clone()),
            profile: self.profile.unwrap_or(inherited.profile),
            doors: self.doors.unwrap_or_else(|| inherited.doors.clone()),
            limits,
        }
    }
}

/// The settings of a file, each written out; `[limits]` comes last because a table of TOML ends at the next one.
pub(crate) fn write(settings: &Settings) -> (String, String) {
    let doors: Vec<String> = settings.doors.iter().map(|door| format!("\"{door}\"")).collect();
    let top =
        format!("image = \"{}\"\nprofile = \"{}\"\ndoors = [{}]\n", settings.image, settings.profile, doors.join(", "));
    (top, limits::write(&settings.limits))
}
