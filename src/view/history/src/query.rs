//! Reads the series of one tenant, the totals of many, faults, and how often a limit would have been hit.

use crate::record::number;
use crate::{History, HistoryError, failed};
use bailiwick_types::{Fault, Kind, Measure, Moment, Point, TenantName, Usage, Window};
use rusqlite::{Row, params};
use std::collections::BTreeMap;

const HOUR: u64 = 3600;
const MEASURES: usize = Measure::ALL.len();

/// Samples, or hours, that are merged into one point.
#[derive(Debug, Clone, Default)]
struct Aggregate {
    seconds: u64,
    /// For a sum its total. For a level its integral over time, in units times seconds.
    amounts: [u128; MEASURES],
    /// For how many seconds a measure has values.
    measured: [u64; MEASURES],
    peaks: [Option<u64>; MEASURES],
}

impl Aggregate {
    fn add(&mut self, seconds: u64, index: usize, measure: Measure, value: Option<u64>, peak: Option<u64>) {
        let Some(value) = value else { return };
        let weight = if measure.kind() == Kind::Level { u128::from(seconds) } else { 1 };
        self.amounts[index] += u128::from(value) * weight;
        self.measured[index] += seconds.max(1);
        self.peaks[index] = self.peaks[index].max(peak.or(Some(value)));
    }

    /// Adds a row with the columns `seconds, measures..., peaks...` from `first` on.
    fn add_row(&mut self, row: &Row<'_>, first: usize) -> rusqlite::Result<()> {
        let seconds = read_u64(row, first)?.unwrap_or(0);
        self.seconds += seconds;
        for (index, measure) in Measure::ALL.into_iter().enumerate() {
            let (value, peak) = (read_u64(row, first + 1 + index)?, read_u64(row, first + 1 + MEASURES + index)?);
            self.add(seconds, index, measure, value, peak);
        }
        Ok(())
    }

    /// Adds a row with the column `seconds`, and for each measure `amount, measured seconds, peak`, from `first` on.
    fn add_summed_row(&mut self, row: &Row<'_>, first: usize) -> rusqlite::Result<()> {
        self.seconds += read_u64(row, first)?.unwrap_or(0);
        for index in 0..MEASURES {
            let column = first + 1 + 3 * index;
            let Some(amount) = read_u64(row, column)? else { continue };
            self.amounts[index] += u128::from(amount);
            self.measured[index] += read_u64(row, column + 1)?.unwrap_or(0).max(1);
            self.peaks[index] = self.peaks[index].max(read_u64(row, column + 2)?);
        }
        Ok(())
    }

    fn point(&self, at: u64) -> Point {
        let (mut usage, mut peak) = (Usage::default(), Usage::default());
        for (index, measure) in Measure::ALL.into_iter().enumerate() {
            if self.measured[index] == 0 {
                continue;
            }
            let divisor = if measure.kind() == Kind::Level { u128::from(self.measured[index]) } else { 1 };
            usage.0.insert(measure, u64::try_from(self.amounts[index] / divisor).unwrap_or(u64::MAX));
            peak.0.extend(self.peaks[index].map(|value| (measure, value)));
        }
        Point { at: Moment(at), seconds: self.seconds, usage, peak }
    }
}

/// A column that SQLite has as a signed integer or nothing.
fn read_u64(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<u64>> {
    Ok(row.get::<_, Option<i64>>(column)?.and_then(|value| u64::try_from(value).ok()))
}

/// The columns `seconds, measures..., peaks...` of minutes. The peak of a minute is its value.
fn minute_columns() -> String {
    let list = crate::schema::columns("minute.");
    format!("minute.seconds, {list}, {list}")
}

/// The columns `seconds, measures..., peaks...` of hours.
fn hour_columns() -> String {
    format!("hour.seconds, {}, {}", crate::schema::columns("hour."), crate::schema::columns("hour.peak_"))
}

impl History {
    /// The part of a window to read from the table of hours, from and until. These are the hours that are rolled up. For steps
    /// shorter than an hour they are only those whose minutes are gone.
    fn hours_of(&self, window: Window, step: u64) -> rusqlite::Result<(u64, u64)> {
        let oldest: Option<i64> = self.connection.query_row("SELECT min(at) FROM moment", [], |row| row.get(0))?;
        let oldest = u64::try_from(oldest.unwrap_or(i64::MAX)).unwrap_or(0);
        let from = window.from.0.next_multiple_of(HOUR);
        let until = if step >= HOUR { window.until.0 } else { window.until.0.min(oldest.next_multiple_of(HOUR)) };
        let until = until / HOUR * HOUR;
        // An hour that must still be rolled up, and every hour after it, is read by its minutes.
        let pending: Option<i64> = self.connection.query_row(
            "SELECT min(at / 3600 * 3600) FROM moment
             WHERE at >= ?1 AND at < ?2 AND at / 3600 * 3600 NOT IN (SELECT at FROM done)",
            [number(from), number(until)],
            |row| row.get(0),
        )?;
        let until = pending.and_then(|hour| u64::try_from(hour).ok()).map_or(until, |hour| hour.min(until));
        Ok((from, until.max(from)))
    }

    /// What a tenant has used, in steps of `step` seconds, at least 60. Steps are counted from 1970, so a window that moves has
    /// the same ones. Steps without a measurement are left out.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn series(&self, tenant: &TenantName, window: Window, step: u64) -> Result<Vec<Point>, HistoryError> {
        self.read_series(tenant, window, step).map_err(failed("read the history"))
    }

    fn read_series(&self, tenant: &TenantName, window: Window, step: u64) -> rusqlite::Result<Vec<Point>> {
        let step = step.max(60);
        let (hours_from, hours_until) = self.hours_of(window, step)?;
        let mut steps: BTreeMap<u64, Aggregate> = BTreeMap::new();
        let mut add = |row: &Row<'_>| -> rusqlite::Result<()> {
            let at = u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0);
            steps.entry(at / step * step).or_default().add_row(row, 1)
        };
        let sql = format!(
            "SELECT hour.at, {} FROM hour JOIN tenant ON tenant.id = hour.tenant
             WHERE tenant.name = ?1 AND hour.at >= ?2 AND hour.at < ?3",
            hour_columns()
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params![tenant.as_str(), number(hours_from), number(hours_until)])?;
        while let Some(row) = rows.next()? {
            add(row)?;
        }
        // Minutes are ordered by time, so the minutes of one tenant are looked up one by one, by the list of moments.
        let sql = format!(
            "SELECT minute.at, {} FROM moment CROSS JOIN tenant
             JOIN minute ON minute.at = moment.at AND minute.tenant = tenant.id
             WHERE tenant.name = ?1 AND moment.at >= ?2 AND moment.at < ?3",
            minute_columns()
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        for (from, until) in
            [(window.from.0, hours_from.min(window.until.0)), (hours_until.max(window.from.0), window.until.0)]
        {
            let mut rows = statement.query(params![tenant.as_str(), number(from), number(until)])?;
            while let Some(row) = rows.next()? {
                add(row)?;
            }
        }
        Ok(steps.into_iter().map(|(at, aggregate)| aggregate.point(at)).collect())
    }

    /// What tenants have used in a window, one point for each. They are all that were measured when `tenants` is `None`.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn totals(
        &self,
        window: Window,
        tenants: Option<&[TenantName]>,
    ) -> Result<Vec<(TenantName, Point)>, HistoryError> {
        self.read_totals(window, tenants).map_err(failed("read the history"))
    }

    fn read_totals(
        &self,
        window: Window,
        tenants: Option<&[TenantName]>,
    ) -> rusqlite::Result<Vec<(TenantName, Point)>> {
        let (hours_from, hours_until) = self.hours_of(window, HOUR)?;
        let mut found: BTreeMap<TenantName, Aggregate> = BTreeMap::new();
        let parts = [
            ("hour", "peak_", hours_from, hours_until),
            ("minute", "", window.from.0, hours_from.min(window.until.0)),
            ("minute", "", hours_until.max(window.from.0), window.until.0),
        ];
        for (table, peak, from, until) in parts {
            if from >= until {
                continue;
            }
            let columns = Measure::ALL.map(|measure| {
                let amount = match measure.kind() {
                    Kind::Sum => format!("sum({measure})"),
                    Kind::Level => format!("sum({measure} * seconds)"),
                };
                format!("{amount}, sum(CASE WHEN {measure} IS NULL THEN 0 ELSE seconds END), max({peak}{measure})")
            });
            let sql = format!(
                "SELECT tenant.name, sum(seconds), {} FROM {table} JOIN tenant ON tenant.id = {table}.tenant
                 WHERE at >= ?1 AND at < ?2 GROUP BY {table}.tenant",
                columns.join(", ")
            );
            let mut statement = self.connection.prepare_cached(&sql)?;
            let mut rows = statement.query(params![number(from), number(until)])?;
            while let Some(row) = rows.next()? {
                let Ok(name) = row.get::<_, String>(0)?.parse::<TenantName>() else { continue };
                if tenants.is_some_and(|tenants| !tenants.contains(&name)) {
                    continue;
                }
                found.entry(name).or_default().add_summed_row(row, 1)?;
            }
        }
        Ok(found.into_iter().map(|(tenant, aggregate)| (tenant, aggregate.point(window.from.0))).collect())
    }

    /// The faults in a window, the newest first, at most `max`. They are those of all tenants when `tenants` is `None`.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn faults(
        &self,
        tenants: Option<&[TenantName]>,
        window: Window,
        max: usize,
    ) -> Result<Vec<Fault>, HistoryError> {
        self.read_faults(tenants, window, max).map_err(failed("read the history"))
    }

    fn read_faults(&self, tenants: Option<&[TenantName]>, window: Window, max: usize) -> rusqlite::Result<Vec<Fault>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT at, name, word, count FROM fault JOIN tenant ON tenant.id = fault.tenant
             WHERE at >= ?1 AND at < ?2 ORDER BY at DESC, name, word",
        )?;
        let mut rows = statement.query(params![number(window.from.0), number(window.until.0)])?;
        let mut found = Vec::new();
        while let (true, Some(row)) = (found.len() < max, rows.next()?) {
            let Ok(tenant) = row.get::<_, String>(1)?.parse::<TenantName>() else { continue };
            if tenants.is_none_or(|tenants| tenants.contains(&tenant)) {
                found.push(Fault {
                    at: Moment(u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0)),
                    tenant,
                    limit: row.get(2)?,
                    count: u64::try_from(row.get::<_, i64>(3)?).unwrap_or(0),
                });
            }
        }
        Ok(found)
    }

    /// How many faults each tenant had in a window, for each limit.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn fault_counts(&self, window: Window) -> Result<BTreeMap<TenantName, BTreeMap<String, u64>>, HistoryError> {
        self.read_fault_counts(window).map_err(failed("read the history"))
    }

    fn read_fault_counts(&self, window: Window) -> rusqlite::Result<BTreeMap<TenantName, BTreeMap<String, u64>>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT name, word, sum(count) FROM fault JOIN tenant ON tenant.id = fault.tenant
             WHERE at >= ?1 AND at < ?2 GROUP BY fault.tenant, word",
        )?;
        let mut rows = statement.query(params![number(window.from.0), number(window.until.0)])?;
        let mut found: BTreeMap<TenantName, BTreeMap<String, u64>> = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let Ok(tenant) = row.get::<_, String>(0)?.parse() else { continue };
            let count = u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0);
            found.entry(tenant).or_default().insert(row.get(1)?, count);
        }
        Ok(found)
    }

    /// How many minutes of a window were above a bound, and how many were measured. Where the minutes are gone, an hour counts
    /// as one minute above the bound when its peak was.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn minutes_over(
        &self,
        tenant: &TenantName,
        window: Window,
        measure: Measure,
        bound: u64,
    ) -> Result<(u64, u64), HistoryError> {
        self.read_minutes_over(tenant, window, measure, bound).map_err(failed("read the history"))
    }

    fn read_minutes_over(
        &self,
        tenant: &TenantName,
        window: Window,
        measure: Measure,
        bound: u64,
    ) -> rusqlite::Result<(u64, u64)> {
        let (hours_from, hours_until) = self.hours_of(window, 60)?;
        let (mut minutes_over_bound, mut minutes_measured) = (0, 0);
        let parts = [
            (
                format!(
                    "SELECT sum(peak_{measure} > ?4), sum(seconds / 60) FROM hour JOIN tenant ON tenant.id = hour.tenant
                     WHERE name = ?1 AND hour.at >= ?2 AND hour.at < ?3 AND peak_{measure} IS NOT NULL"
                ),
                hours_from,
                hours_until,
            ),
            (count_minutes_over(measure), window.from.0, hours_from.min(window.until.0)),
            (count_minutes_over(measure), hours_until.max(window.from.0), window.until.0),
        ];
        for (sql, from, until) in parts {
            let bounds = params![tenant.as_str(), number(from), number(until), number(bound)];
            let (over, measured): (Option<i64>, Option<i64>) =
                self.connection.prepare_cached(&sql)?.query_row(bounds, |row| Ok((row.get(0)?, row.get(1)?)))?;
            minutes_over_bound += u64::try_from(over.unwrap_or(0)).unwrap_or(0);
            minutes_measured += u64::try_from(measured.unwrap_or(0)).unwrap_or(0);
        }
        Ok((minutes_over_bound, minutes_measured))
    }
}

/// The statement that counts the minutes of a tenant, from `?2` until `?3`, above the bound `?4`.
fn count_minutes_over(measure: Measure) -> String {
    format!(
        "SELECT sum({measure} > ?4), count(*) FROM moment CROSS JOIN tenant
         JOIN minute ON minute.at = moment.at AND minute.tenant = tenant.id
         WHERE name = ?1 AND moment.at >= ?2 AND moment.at < ?3 AND {measure} IS NOT NULL"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{fresh, name, sample};
    use crate::{Retention, Sample};
    use proptest::prelude::*;

    const START: u64 = 500 * HOUR;

    fn window(from: u64, until: u64) -> Window {
        Window { from: Moment(START + from), until: Moment(START + until) }
    }

    #[test]
    fn a_missing_measurement_is_no_zero() {
        let (_temp, mut history) = fresh();
        history.write(Moment(START), &[(name("a"), sample(5, 9))], &[]).expect("writes");
        history.write(Moment(START + 600), &[(name("a"), sample(7, 1))], &[]).expect("writes");
        let points = history.series(&name("a"), window(0, HOUR), 300).expect("reads");
        assert_eq!(points.iter().map(|point| point.at.0 - START).collect::<Vec<_>>(), [0, 600]);
        assert_eq!(points[0].usage.get(Measure::Disk), None);
        assert_eq!(history.series(&name("nemo"), window(0, HOUR), 300).expect("reads"), []);
        assert_eq!(history.totals(window(HOUR, 2 * HOUR), None).expect("reads"), []);
        let total = &history.totals(window(0, HOUR), Some(&[name("a")])).expect("reads")[0].1;
        assert_eq!(
            (total.seconds, total.usage.get(Measure::Cpu), total.usage.get(Measure::Memory)),
            (120, Some(12), Some(5))
        );
    }

    #[test]
    fn faults_add_up_and_the_newest_come_first() {
        let (_temp, mut history) = fresh();
        let fault =
            |at, limit: &str, count| Fault { at: Moment(START + at), tenant: name("a"), limit: limit.into(), count };
        history
            .write(Moment(START), &[], &[fault(0, "memory", 1), fault(5, "memory", 2), fault(59, "tasks", 4)])
            .expect("writes");
        history.write(Moment(START + 60), &[], &[fault(60, "memory", 8)]).expect("writes");
        let all = history.faults(None, window(0, HOUR), 10).expect("reads");
        let short: Vec<_> = all.iter().map(|fault| (fault.at.0 - START, fault.limit.as_str(), fault.count)).collect();
        assert_eq!(short, [(60, "memory", 8), (0, "memory", 3), (0, "tasks", 4)]);
        assert_eq!(history.faults(Some(&[name("b")]), window(0, HOUR), 10).expect("reads"), []);
        assert_eq!(history.faults(None, window(0, HOUR), 1).expect("reads").len(), 1);
        let counts = history.fault_counts(window(0, HOUR)).expect("reads");
        assert_eq!(counts[&name("a")], [("memory".to_owned(), 11), ("tasks".to_owned(), 4)].into());
        assert!(history.fault_counts(window(HOUR, 2 * HOUR)).expect("reads").is_empty());
    }

    #[test]
    fn minutes_above_a_bound_are_counted() {
        let (_temp, mut history) = fresh();
        history.retention = Retention { minutes: 60, ..Retention::default() };
        for minute in 0..180 {
            history.write(Moment(START + minute * 60), &[(name("a"), sample(minute, 1))], &[]).expect("writes");
        }
        assert_eq!(history.minutes_over(&name("a"), window(0, 3 * HOUR), Measure::Cpu, 99).expect("reads"), (80, 180));
        history.maintain().expect("maintains");
        // Only the hours are left of the first two hours. The peak of the second is above the bound, so it counts as one minute.
        assert_eq!(history.minutes_over(&name("a"), window(0, 3 * HOUR), Measure::Cpu, 99).expect("reads"), (61, 180));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn rolling_up_keeps_sums_and_peaks(
            minutes in proptest::collection::vec((0u64..400, 0u64..1_000_000, 0u64..1 << 40), 1..60),
            from in 0u64..8, len in 1u64..8,
        ) {
            let (_temp, mut history) = fresh();
            for (minute, cpu, memory) in minutes {
                let usage = Usage([(Measure::Cpu, cpu), (Measure::Memory, memory)].into());
                let sample = Sample { seconds: 60, usage, counters: Usage::default() };
                history.write(Moment(START + minute * 60), &[(name("a"), sample)], &[]).expect("writes");
            }
            let window = window(from * HOUR, (from + len) * HOUR);
            let before = history.totals(window, None).expect("reads");
            let steps = history.series(&name("a"), window, HOUR).expect("reads");
            history.maintain().expect("maintains");
            let after = history.totals(window, None).expect("reads");
            prop_assert_eq!(before.len(), after.len());
            for ((_, before), (_, after)) in before.iter().zip(&after) {
                prop_assert_eq!(before.seconds, after.seconds);
                prop_assert_eq!(before.usage.get(Measure::Cpu), after.usage.get(Measure::Cpu));
                prop_assert_eq!(&before.peak, &after.peak);
                let levels = [before, after].map(|point| point.usage.get(Measure::Memory).expect("measured"));
                prop_assert!(levels[0].abs_diff(levels[1]) <= 1, "{levels:?}");
            }
            let sum: u64 = steps.iter().filter_map(|point| point.usage.get(Measure::Cpu)).sum();
            prop_assert_eq!(sum, before.first().and_then(|(_, point)| point.usage.get(Measure::Cpu)).unwrap_or(0));
        }
    }
}
