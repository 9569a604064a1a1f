//! Reads and writes `notices` of `bailiwick.toml`: who delivers notices, and how often the use of limits is compared with them.

use crate::diagnostic::Problem;
use crate::host::not_root;
use crate::limits::bounded;
use crate::model::NoticeSettings;
use crate::reader::{Report, Section, Table};
use bailiwick_types::Period;
use toml::Spanned;
use toml::de::DeValue;

pub(crate) const HOST_NOTICES: Section = Section { title: "in \"notices\"", keys: &["user", "every"] };

const EVERY: &str = "from 1s to 1h";
const OWN_USER: &str = "give it a user of its own, such as \"bailiwick-notify\"";

impl Default for NoticeSettings {
    fn default() -> Self {
        Self { user: "bailiwick-notify".to_owned(), every: Period(60) }
    }
}

/// Reads who delivers notices. `daemon` is the user of `bailiwickd`, whose files a program that sends mail must not reach.
pub(crate) fn read(
    report: &mut Report<'_>,
    top: &Table<'_, '_>,
    file: &'static [Section],
    daemon: &str,
) -> NoticeSettings {
    let table = top.filled_table(report, "notices", &HOST_NOTICES, file);
    let own = table.as_ref().and_then(|table| table.read(report, "user", user));
    let place = own.as_ref().map(Spanned::span).or_else(|| top.get("user").map(Spanned::span));
    let mut notices = NoticeSettings::default();
    notices.user = own.map_or(notices.user, Spanned::into_inner);
    let every =
        table.and_then(|table| table.read(report, "every", |value| bounded(value, Period(1), Period(3600), EVERY)));
    notices.every = every.map_or(notices.every, Spanned::into_inner);
    if let Some(place) = place.filter(|_| notices.user == daemon) {
        let problem = format!("notices must not be delivered by \"{daemon}\", the user of bailiwickd");
        report.error(place, || Problem::new(problem).hint(OWN_USER));
    }
    notices
}

/// Reads the user that delivers notices. It executes programs that are not ours, so it must not be root.
fn user(value: &DeValue<'_>) -> Result<String, Problem> {
    not_root(value, "user", || Problem::new("root must not deliver notices").hint(OWN_USER))
}

/// Writes who delivers notices.
pub(crate) fn write(notices: &NoticeSettings) -> String {
    format!("notices = {{ user = {}, every = \"{}\" }}\n", toml::Value::from(notices.user.as_str()), notices.every)
}
