//! Reads and writes `metrics` of `bailiwick.toml`: how much the metrics tell of tenants, and how long a reading is used.

use crate::limits::bounded;
use crate::model::MetricsSettings;
use crate::reader::{Report, Section, Table, parsed};
use bailiwick_types::{MetricsDetail, Period};
use toml::Spanned;

pub(crate) const HOST_METRICS: Section = Section { title: "in \"metrics\"", keys: &["tenants", "cache"] };

const CACHE: &str = "from 1s to 10m";

impl Default for MetricsSettings {
    fn default() -> Self {
        Self { tenants: MetricsDetail::Core, cache: Period(15) }
    }
}

/// Reads the settings of the metrics.
pub(crate) fn read(report: &mut Report<'_>, top: &Table<'_, '_>, file: &'static [Section]) -> MetricsSettings {
    let mut metrics = MetricsSettings::default();
    let Some(table) = top.filled_table(report, "metrics", &HOST_METRICS, file) else { return metrics };
    let tenants = table.read(report, "tenants", parsed::<MetricsDetail>);
    metrics.tenants = tenants.map_or(metrics.tenants, Spanned::into_inner);
    let cache = table.read(report, "cache", |value| bounded(value, Period(1), Period(600), CACHE));
    metrics.cache = cache.map_or(metrics.cache, Spanned::into_inner);
    metrics
}

/// Writes the settings of the metrics.
pub(crate) fn write(metrics: MetricsSettings) -> String {
    format!("metrics = {{ tenants = \"{}\", cache = \"{}\" }}\n", metrics.tenants, metrics.cache)
}
