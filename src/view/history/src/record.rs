//! Writes the samples and faults of a minute, rolls up hours, and removes what is past the retention.

use crate::{History, HistoryError, failed, schema};
use bailiwick_types::{Fault, Kind, Measure, Moment, TenantName, Usage};
use rusqlite::types::Value;
use rusqlite::{Connection, Transaction, params, params_from_iter};
use std::collections::BTreeMap;

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;
/// How many minutes, or hours, are removed in one step while the file is too large.
const STEP: i64 = 60;

/// What a tenant has used in a minute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// How many seconds were measured.
    pub seconds: u64,
    /// Sums over these seconds, and levels at their end.
    pub usage: Usage,
    /// Readings of counters that nobody resets when this program ends, by the measure that they count. The history keeps the last
    /// reading of each and stores the growth, which includes what grew while nobody wrote. A counter that is lower than before
    /// was made anew and counts whole, and so does the first one. Such a measure in `usage` is ignored.
    pub counters: Usage,
}

/// The most that a counter may grow in one minute; the rest counts in the minutes after it. The sum over a whole retention of
/// minutes and hours stays below what SQLite can add up, whatever a counter says.
const MOST_GROWTH: i64 = 1 << 43;

/// The value for a column of SQLite, which has no unsigned integers.
pub(crate) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The number of a tenant in the file. A tenant without one gets one.
pub(crate) fn tenant_id(connection: &Connection, tenant: &TenantName) -> rusqlite::Result<i64> {
    connection.prepare_cached("INSERT OR IGNORE INTO tenant (name) VALUES (?1)")?.execute([tenant.as_str()])?;
    connection.prepare_cached("SELECT id FROM tenant WHERE name = ?1")?.query_row([tenant.as_str()], |row| row.get(0))
}

impl History {
    /// Writes the samples and faults of a minute, all of them or none. When the minute was written before, because the clock
    /// was set back, sums are added and the higher levels stay.
    ///
    /// # Errors
    /// [`HistoryError::Full`] when the disk is full, or another error of SQLite.
    pub fn write(
        &mut self,
        at: Moment,
        samples: &[(TenantName, Sample)],
        faults: &[Fault],
    ) -> Result<(), HistoryError> {
        let what = "write the history";
        let transaction = self.connection.transaction().map_err(failed(what))?;
        write_minute(&transaction, at.0 / MINUTE * MINUTE, samples, faults).map_err(failed(what))?;
        transaction.commit().map_err(failed(what))
    }

    /// Removes everything about a tenant, whose data is purged.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn forget(&mut self, tenant: &TenantName) -> Result<(), HistoryError> {
        let what = "forget a tenant";
        let transaction = self.connection.transaction().map_err(failed(what))?;
        for table in ["minute", "hour", "fault", "incident", "counter"] {
            let sql = format!("DELETE FROM {table} WHERE tenant = (SELECT id FROM tenant WHERE name = ?1)");
            transaction.execute(&sql, [tenant.as_str()]).map_err(failed(what))?;
        }
        transaction.execute("DELETE FROM tenant WHERE name = ?1", [tenant.as_str()]).map_err(failed(what))?;
        transaction.commit().map_err(failed(what))
    }

    /// Rolls up the hours that are over, and removes what is past the retention. This is cheap when there is nothing to do. It
    /// may be interrupted at any point and continued later.
    ///
    /// # Errors
    /// An error of SQLite.
    pub fn maintain(&mut self) -> Result<(), HistoryError> {
        self.roll_up().map_err(failed("roll up the history"))?;
        self.expire().map_err(failed("shorten the history"))
    }

    /// Rolls up every hour except the newest, which is not over. One transaction holds an hour and the mark that it is done.
    fn roll_up(&mut self) -> rusqlite::Result<()> {
        let hours: Vec<i64> = self
            .connection
            .prepare_cached(
                "SELECT DISTINCT at / 3600 * 3600 FROM moment WHERE at < (SELECT max(at) FROM moment) / 3600 * 3600
                 EXCEPT SELECT at FROM done ORDER BY 1",
            )?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for hour in hours {
            let transaction = self.connection.transaction()?;
            transaction.execute(&roll_up_hour(), [hour])?;
            transaction.execute("INSERT OR REPLACE INTO done VALUES (?1)", [hour])?;
            transaction.commit()?;
        }
        Ok(())
    }

    /// Removes the minutes and hours past the retention, with the faults and incidents of these hours.
    fn expire(&mut self) -> rusqlite::Result<()> {
        // The newest moment that is past the retention.
        let last_expired = |connection: &Connection, table: &str, kept: u32| -> rusqlite::Result<Option<i64>> {
            let sql = format!("SELECT max(at) FROM (SELECT at FROM {table} ORDER BY at DESC LIMIT -1 OFFSET ?1)");
            connection.query_row(&sql, [kept], |row| row.get(0))
        };
        if let Some(last) = last_expired(&self.connection, "moment", self.retention.minutes)? {
            self.drop_minutes(last)?;
        }
        if let Some(last) = last_expired(&self.connection, "done", self.retention.hours)? {
            self.drop_hours(last)?;
        }
        while self.size()? > self.retention.bytes {
            let minutes: i64 = self.connection.query_row("SELECT count(*) FROM moment", [], |row| row.get(0))?;
            let hours: i64 = self.connection.query_row("SELECT count(*) FROM done", [], |row| row.get(0))?;
            let nth = |table: &str| format!("SELECT max(at) FROM (SELECT at FROM {table} ORDER BY at LIMIT {STEP})");
            // The newest two hours of minutes stay, whatever their size.
            if minutes > 2 * STEP {
                let last = self.connection.query_row(&nth("moment"), [], |row| row.get(0))?;
                self.drop_minutes(last)?;
            } else if hours > STEP {
                let last = self.connection.query_row(&nth("done"), [], |row| row.get(0))?;
                self.drop_hours(last)?;
            } else {
                break;
            }
        }
        self.connection.execute_batch("PRAGMA incremental_vacuum(4096)")
    }

    /// The bytes of the file that are in use.
    pub(crate) fn size(&self) -> rusqlite::Result<u64> {
        let pragma =
            |name: &str| -> rusqlite::Result<i64> { self.connection.pragma_query_value(None, name, |row| row.get(0)) };
        let pages = pragma("page_count")? - pragma("freelist_count")?;
        Ok(u64::try_from(pages * pragma("page_size")?).unwrap_or(0))
    }

    fn drop_minutes(&mut self, last: i64) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        transaction.execute("DELETE FROM minute WHERE at <= ?1", [last])?;
        transaction.execute("DELETE FROM moment WHERE at <= ?1", [last])?;
        transaction.commit()
    }

    fn drop_hours(&mut self, last: i64) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        transaction.execute("DELETE FROM hour WHERE at <= ?1", [last])?;
        transaction.execute("DELETE FROM fault WHERE at < ?1 + 3600", [last])?;
        transaction.execute("DELETE FROM incident WHERE until < ?1 + 3600", [last])?;
        transaction.execute("DELETE FROM done WHERE at <= ?1", [last])?;
        transaction.commit()
    }
}

/// Writes a minute, which begins at `minute` seconds since 1970.
fn write_minute(
    transaction: &Transaction<'_>,
    minute: u64,
    samples: &[(TenantName, Sample)],
    faults: &[Fault],
) -> rusqlite::Result<()> {
    transaction.execute("INSERT OR IGNORE INTO moment VALUES (?1)", [number(minute)])?;
    // An hour that was rolled up is rolled up again, if all its minutes are still there.
    transaction.execute(
        "DELETE FROM done WHERE at = ?1 AND ?1 >= (SELECT min(at) FROM moment)",
        [number(minute / HOUR * HOUR)],
    )?;
    let mut insert = transaction.prepare_cached(&insert_minute())?;
    for (tenant, sample) in samples {
        let id = tenant_id(transaction, tenant)?;
        let grown = count_up(transaction, id, &sample.counters)?;
        let head = [number(minute), id, number(sample.seconds)];
        let values = Measure::ALL.map(|measure| grown.get(&measure).copied().or(sample.usage.get(measure).map(number)));
        let row = head.map(Value::Integer).into_iter();
        insert.execute(params_from_iter(row.chain(values.into_iter().map(Value::from))))?;
    }
    let mut insert = transaction.prepare_cached(
        "INSERT INTO fault VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET count = count + excluded.count",
    )?;
    for fault in faults {
        let at = number(fault.at.0 / MINUTE * MINUTE);
        insert.execute(params![at, tenant_id(transaction, &fault.tenant)?, fault.limit, number(fault.count)])?;
    }
    Ok(())
}

/// Replaces the last readings of a tenant's counters and returns how much each has grown.
fn count_up(transaction: &Transaction<'_>, tenant: i64, counters: &Usage) -> rusqlite::Result<BTreeMap<Measure, i64>> {
    if counters.0.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut statement = transaction.prepare_cached("SELECT measure, value FROM counter WHERE tenant = ?1")?;
    let last: BTreeMap<String, i64> =
        statement.query_map([tenant], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    let mut replace = transaction.prepare_cached("INSERT OR REPLACE INTO counter VALUES (?1, ?2, ?3)")?;
    let mut grown = BTreeMap::new();
    for (measure, value) in &counters.0 {
        let (last, value) = (last.get(measure.word()).copied(), number(*value));
        let before = last.filter(|last| *last <= value).unwrap_or(0);
        let growth = (value - before).min(MOST_GROWTH);
        if last != Some(before + growth) {
            replace.execute(params![tenant, measure.word(), before + growth])?;
        }
        grown.insert(*measure, growth);
    }
    Ok(grown)
}

fn insert_minute() -> String {
    let marks = (1..=3 + Measure::ALL.len()).map(|index| format!("?{index}")).collect::<Vec<_>>().join(", ");
    let merged = Measure::ALL.map(|measure| match measure.kind() {
        // A value that is missing on one side is taken from the other.
        Kind::Sum => format!("{measure} = coalesce({measure} + excluded.{measure}, {measure}, excluded.{measure})"),
        Kind::Level => {
            format!("{measure} = coalesce(max({measure}, excluded.{measure}), {measure}, excluded.{measure})")
        }
    });
    format!(
        "INSERT INTO minute (at, tenant, seconds, {}) VALUES ({marks})
         ON CONFLICT DO UPDATE SET seconds = seconds + excluded.seconds, {}",
        schema::columns(""),
        merged.join(", ")
    )
}

fn roll_up_hour() -> String {
    let together = Measure::ALL.map(|measure| match measure.kind() {
        Kind::Sum => format!("sum({measure})"),
        Kind::Level => {
            format!("sum({measure} * seconds) / max(1, sum(CASE WHEN {measure} IS NULL THEN 0 ELSE seconds END))")
        }
    });
    let peaks = Measure::ALL.map(|measure| format!("max({measure})"));
    format!(
        "INSERT OR REPLACE INTO hour (tenant, at, seconds, {}, {})
         SELECT tenant, ?1, sum(seconds), {}, {} FROM minute WHERE at >= ?1 AND at < ?1 + 3600 GROUP BY tenant",
        schema::columns(""),
        schema::columns("peak_"),
        together.join(", "),
        peaks.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Retention;
    use crate::tests::{fresh, name, sample};
    use bailiwick_types::Window;

    const START: u64 = 1_000 * HOUR;

    fn count(history: &History, table: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM {table}");
        history.connection.query_row(&sql, [], |row| row.get(0)).expect("counts")
    }

    #[test]
    fn hours_are_rolled_up_once_and_old_minutes_go() {
        let (_temp, mut history) = fresh();
        history.retention = Retention { minutes: 90, hours: 3, bytes: 1 << 30 };
        for minute in 0..301 {
            let samples = [(name("a"), sample(10, minute)), (name("b"), sample(1, 5))];
            history.write(Moment(START + minute * 60), &samples, &[]).expect("writes");
            if minute % 7 == 0 {
                history.maintain().expect("maintains");
                history.maintain().expect("maintains again");
            }
        }
        history.maintain().expect("maintains");
        assert_eq!((count(&history, "moment"), count(&history, "minute")), (90, 180));
        assert_eq!((count(&history, "done"), count(&history, "hour")), (3, 6));
        let window = Window { from: Moment(START + 3 * HOUR), until: Moment(START + 4 * HOUR) };
        let point = &history.series(&name("a"), window, HOUR).expect("reads")[0];
        assert_eq!(point.seconds, HOUR);
        assert_eq!(point.usage.get(Measure::Cpu), Some(600));
        assert_eq!((point.usage.get(Measure::Memory), point.peak.get(Measure::Memory)), (Some(209), Some(239)));
        assert_eq!(point.peak.get(Measure::Cpu), Some(10));
    }

    #[test]
    fn a_clock_that_jumps_loses_nothing() {
        let (_temp, mut history) = fresh();
        history.retention = Retention { minutes: 600, hours: 600, bytes: 1 << 30 };
        let mut write = |at: u64| {
            history.write(Moment(at), &[(name("a"), sample(10, 5))], &[]).expect("writes");
            history.maintain().expect("maintains");
        };
        for minute in 0..120 {
            write(START + minute * 60);
        }
        // The clock jumps ten years ahead, then back, then back to an hour that is rolled up.
        write(START + 10 * 365 * 24 * HOUR);
        write(START + 120 * 60);
        write(START + 30 * 60);
        write(START);
        write(60);
        assert_eq!(count(&history, "moment"), 123);
        let window = Window { from: Moment(START), until: Moment(START + HOUR) };
        let total = history.totals(window, None).expect("reads");
        assert_eq!(total[0].1.usage.get(Measure::Cpu), Some(620));
        let by_hour = history.series(&name("a"), window, HOUR).expect("reads");
        assert_eq!(by_hour[0].usage.get(Measure::Cpu), Some(620), "rolled up again");
    }

    #[test]
    fn a_full_disk_is_an_error_and_no_part_of_a_minute_is_written() {
        let (_temp, mut history) = fresh();
        history.write(Moment(START), &[(name("a"), sample(1, 1))], &[]).expect("writes");
        let pages: i64 = history.connection.pragma_query_value(None, "page_count", |row| row.get(0)).expect("pages");
        history.connection.pragma_update(None, "max_page_count", pages + 2).expect("bounds");
        let many: Vec<_> = (0..2000).map(|tenant| (name(&format!("t{tenant}")), sample(1, 1))).collect();
        let error = history.write(Moment(START + 60), &many, &[]).expect_err("no space");
        assert!(matches!(error, HistoryError::Full), "{error}");
        assert_eq!((count(&history, "minute"), count(&history, "tenant"), count(&history, "moment")), (1, 1, 1));
        history.connection.pragma_update(None, "max_page_count", 1 << 30).expect("frees");
        history.write(Moment(START + 60), &many, &[]).expect("writes");
        assert_eq!(count(&history, "minute"), 2001);
    }

    #[test]
    fn a_file_that_grows_too_large_loses_its_oldest_minutes_first() {
        let (_temp, mut history) = fresh();
        let bytes = 1 << 20;
        history.retention = Retention { bytes, ..Retention::default() };
        let many: Vec<_> =
            (0..100).map(|tenant| (name(&format!("t{tenant}")), sample(12_345_678, 123_456_789))).collect();
        for minute in 0..600 {
            history.write(Moment(START + minute * 60), &many, &[]).expect("writes");
            if minute % 60 == 59 {
                history.maintain().expect("maintains");
                assert!(history.size().expect("size") < 2 * bytes);
            }
        }
        assert!(history.size().expect("size") <= bytes);
        assert!(count(&history, "moment") < 600);
        assert_eq!(count(&history, "done"), 9, "the hours are still there");
        let oldest: i64 =
            history.connection.query_row("SELECT min(at) FROM minute", [], |row| row.get(0)).expect("one");
        assert!(oldest > number(START));
    }

    #[test]
    fn a_forgotten_tenant_is_gone() {
        let (_temp, mut history) = fresh();
        for tenant in ["a", "b"] {
            let fault = Fault { at: Moment(START), tenant: name(tenant), limit: "tasks".to_owned(), count: 2 };
            history.write(Moment(START), &[(name(tenant), sample(1, 1))], &[fault]).expect("writes");
        }
        history.forget(&name("a")).expect("forgets");
        let window = Window { from: Moment(0), until: Moment(START * 2) };
        let left: Vec<_> = history.totals(window, None).expect("reads").into_iter().map(|(tenant, _)| tenant).collect();
        assert_eq!(left, [name("b")]);
        assert_eq!(history.faults(None, window, 10).expect("reads").len(), 1);
    }

    /// A sample of a tenant whose counter of sent bytes has this reading.
    fn counted(value: u64) -> Sample {
        Sample { counters: Usage([(Measure::NetSent, value)].into()), ..sample(1, 1) }
    }

    fn sent(history: &History, minute: u64) -> Option<u64> {
        let window = Window { from: Moment(START + minute * 60), until: Moment(START + minute * 60 + 60) };
        history.series(&name("a"), window, 60).expect("reads").first()?.usage.get(Measure::NetSent)
    }

    #[test]
    fn a_counter_counts_once_whoever_restarts_and_whole_when_it_is_new() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("history.db");
        let open = || History::open(&path, Retention::default()).expect("opens").0;
        let mut history = open();
        let write = |history: &mut History, minute: u64, sample: Sample| {
            history.write(Moment(START + minute * 60), &[(name("a"), sample)], &[]).expect("writes");
        };
        write(&mut history, 0, counted(100));
        write(&mut history, 1, counted(130));
        write(&mut history, 2, counted(130));
        // Nobody writes for an hour, and the counter goes on.
        drop(history);
        let mut history = open();
        write(&mut history, 62, counted(1000));
        // A minute without a reading is not measured, and loses nothing.
        write(&mut history, 63, sample(1, 1));
        write(&mut history, 64, counted(1001));
        // The counter is made anew.
        write(&mut history, 65, counted(7));
        write(&mut history, 66, counted(9));
        // The clock is set back by a minute.
        write(&mut history, 66, counted(10));
        let golden = [(0, Some(100)), (1, Some(30)), (2, Some(0)), (62, Some(870)), (63, None)];
        let golden = golden.into_iter().chain([(64, Some(1)), (65, Some(7)), (66, Some(3))]);
        for (minute, golden) in golden {
            assert_eq!(sent(&history, minute), golden, "{minute}");
        }
        assert_eq!(count(&history, "counter"), 1);
        history.forget(&name("a")).expect("forgets");
        assert_eq!(count(&history, "counter"), 0);
    }

    #[test]
    fn a_minute_that_was_not_written_moves_no_counter() {
        let (_temp, mut history) = fresh();
        history.write(Moment(START), &[(name("a"), counted(5))], &[]).expect("writes");
        history.connection.execute_batch("ALTER TABLE fault RENAME TO elsewhere").expect("renames");
        let fault = Fault { at: Moment(START), tenant: name("a"), limit: "tasks".to_owned(), count: 2 };
        history.write(Moment(START + 60), &[(name("a"), counted(50))], &[fault]).expect_err("no table of faults");
        history.connection.execute_batch("ALTER TABLE elsewhere RENAME TO fault").expect("renames");
        history.write(Moment(START + 120), &[(name("a"), counted(60))], &[]).expect("writes");
        assert_eq!((sent(&history, 1), sent(&history, 2)), (None, Some(55)));
    }

    #[test]
    fn a_counter_that_says_nonsense_breaks_no_sum() {
        let (_temp, mut history) = fresh();
        let most = u64::try_from(MOST_GROWTH).expect("positive");
        for minute in 0..150 {
            let value = if minute % 3 == 2 { 0 } else { u64::MAX - minute };
            history.write(Moment(START + minute * 60), &[(name("a"), counted(value))], &[]).expect("writes");
        }
        history.maintain().expect("maintains");
        let window = Window { from: Moment(START), until: Moment(START + 3 * HOUR) };
        let total = history.totals(window, None).expect("reads").remove(0).1;
        assert_eq!(total.usage.get(Measure::NetSent), Some(100 * most));
        // Growth over the bound is not lost.
        let mut write = |minute: u64, value| {
            history.write(Moment(START + minute * 60), &[(name("a"), counted(value))], &[]).expect("writes");
            sent(&history, minute)
        };
        write(200, 0);
        assert_eq!([201, 202, 203].map(|minute| write(minute, most + 5)), [Some(most), Some(5), Some(0)]);
        // A retention of minutes and hours of such growth can be added up.
        let minutes = u64::from(Retention::default().hours) * 60;
        assert!(minutes.checked_mul(most).is_some_and(|sum| i64::try_from(sum).is_ok()));
    }

    #[test]
    #[ignore = "prints how long it takes; run with --release"]
    fn a_thousand_tenants() {
        let (_temp, mut history) = fresh();
        let usage = Usage(Measure::ALL.map(|measure| (measure, 123_456_789)).into());
        // Every counter of every tenant grows each minute.
        let traffic = Measure::ALL.into_iter().filter(|measure| measure.is_traffic());
        let counters: Vec<Measure> = traffic.collect();
        let mut many: Vec<_> = (0..1000)
            .map(|tenant| {
                (name(&format!("t{tenant}")), Sample { seconds: 60, usage: usage.clone(), counters: Usage::default() })
            })
            .collect();
        let mut times = Vec::new();
        for minute in 0..180 {
            for (_, sample) in &mut many {
                sample.counters = Usage(counters.iter().map(|measure| (*measure, minute * 1_000_000)).collect());
            }
            let begin = std::time::Instant::now();
            history.write(Moment(START + minute * 60), &many, &[]).expect("writes");
            times.push(begin.elapsed());
        }
        times.sort();
        let begin = std::time::Instant::now();
        history.maintain().expect("maintains");
        let maintained = begin.elapsed();
        let window = Window { from: Moment(START), until: Moment(START + 3 * HOUR) };
        let begin = std::time::Instant::now();
        history.totals(window, None).expect("reads");
        let size = history.size().expect("size") / 180 * 1440 / 1000;
        std::io::Write::write_fmt(
            &mut std::io::stderr(),
            format_args!(
                "write: median {:?}, worst {:?}; roll-up of 2 hours {maintained:?}; totals of 3 hours {:?}; {size} bytes a tenant and day\n",
                times[90],
                times[179],
                begin.elapsed()
            ),
        )
        .expect("prints");
    }
}
