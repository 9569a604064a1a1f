//! Interleaved rounds: each round measures every subject once. A slowdown of the machine affects all subjects, and
//! a ratio compares measurements that are close in time.

use std::time::{Duration, Instant};

/// Rounds that are not counted: the first start of a tenant creates its storage, and first runs fill caches.
const WARM_UP: usize = 5;

/// A subject, measured once per round.
pub(crate) struct Subject<'a> {
    /// A name for each duration that `run` returns.
    pub(crate) names: Vec<String>,
    pub(crate) run: Box<dyn FnMut() -> Measured + 'a>,
}

/// The durations of one run, or why a peer failed. Our own subjects panic instead.
pub(crate) type Measured = Result<Vec<Duration>, String>;

impl<'a> Subject<'a> {
    /// A subject with one duration.
    pub(crate) fn one(name: &str, mut run: impl FnMut() -> Duration + 'a) -> Self {
        Self { names: vec![name.to_owned()], run: Box::new(move || Ok(vec![run()])) }
    }

    /// A peer, which may fail: then its row says so, and the others are still measured.
    pub(crate) fn peer(name: &str, mut run: impl FnMut() -> Result<Duration, String> + 'a) -> Self {
        Self { names: vec![name.to_owned()], run: Box::new(move || Ok(vec![run()?])) }
    }
}

/// One duration over all rounds, in microseconds.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) times: Vec<f64>,
    /// Why the series ended early.
    pub(crate) failure: Option<String>,
}

/// The duration of a function.
pub(crate) fn time(run: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    run();
    begin.elapsed()
}

/// The same for a function that may fail.
pub(crate) fn try_time(run: impl FnOnce() -> Result<(), String>) -> Result<Duration, String> {
    let begin = Instant::now();
    run()?;
    Ok(begin.elapsed())
}

/// Measures all subjects in every round, without those that have failed. The order is reversed in every second
/// round and rotated after it, so that no subject always follows the same other: work that a subject leaves to the
/// kernel (the removal of a network namespace above all) slows its successor.
pub(crate) fn interleave(rounds: usize, subjects: &mut [Subject<'_>]) -> Vec<Series> {
    let mut series: Vec<Vec<Series>> =
        subjects.iter().map(|subject| subject.names.iter().map(|name| Series::new(name)).collect()).collect();
    for round in 0..WARM_UP + rounds {
        for index in order(round, subjects.len()) {
            if series[index].iter().any(|series| series.failure.is_some()) {
                continue;
            }
            let times = match (subjects[index].run)() {
                Ok(times) => times,
                Err(why) => {
                    crate::say(&format!("{}: {why}", subjects[index].names.join(", ")));
                    for series in &mut series[index] {
                        (series.times, series.failure) = (Vec::new(), Some(why.clone()));
                    }
                    continue;
                }
            };
            assert_eq!(times.len(), series[index].len(), "{:?}", subjects[index].names);
            if round >= WARM_UP {
                for (series, time) in series[index].iter_mut().zip(times) {
                    series.times.push(time.as_secs_f64() * 1e6);
                }
            }
        }
    }
    series.into_iter().flatten().collect()
}

fn order(round: usize, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).map(|place| (place + round / 2) % count).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

/// A quantile of the values; NaN if there are none.
pub(crate) fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index of some hundreds"
    )]
    let index = (last as f64 * part).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

impl Series {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), times: Vec::new(), failure: None }
    }

    pub(crate) fn quantile(&self, part: f64) -> f64 {
        quantile(&self.times, part)
    }

    /// Median of the ratios to another series, round by round.
    pub(crate) fn ratio_to(&self, reference: &Self) -> f64 {
        let ratios: Vec<f64> = self.times.iter().zip(&reference.times).map(|(own, other)| own / other).collect();
        quantile(&ratios, 0.5)
    }

    /// Median of the differences to another series, round by round, in microseconds.
    pub(crate) fn above(&self, reference: &Self) -> f64 {
        let differences: Vec<f64> = self.times.iter().zip(&reference.times).map(|(own, other)| own - other).collect();
        quantile(&differences, 0.5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Table, Unit};

    #[test]
    fn every_round_has_every_subject_once_and_the_first_changes() {
        for round in 0..12 {
            let mut sorted = order(round, 6);
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4, 5]);
        }
        let firsts: std::collections::BTreeSet<usize> = (0..12).map(|round| order(round, 6)[0]).collect();
        assert_eq!(firsts.len(), 6, "{firsts:?}");
    }

    #[test]
    fn a_peer_that_fails_is_a_row_that_says_so_and_nobody_else_s_loss() {
        let mut left = 3;
        let mut subjects = [
            Subject::one("ours", || Duration::from_micros(7)),
            Subject::peer("never", || Err("it is not there".to_owned())),
            Subject::peer("at last", || {
                left -= 1;
                if left > 0 { Ok(Duration::from_micros(5)) } else { Err("it had enough".to_owned()) }
            }),
        ];
        let series = interleave(4, &mut subjects);
        assert_eq!((series[0].times.len(), series[0].failure.as_deref()), (4, None));
        for (index, why) in [(1, "it is not there"), (2, "it had enough")] {
            assert_eq!((series[index].times.len(), series[index].failure.as_deref()), (0, Some(why)));
        }
        let report =
            Table { title: "a table".to_owned(), note: String::new(), unit: Unit::Ms, references: vec![0], series };
        assert!(report.markdown(None).contains("| never | failed: it is not there |"), "{report:?}");
        assert_eq!(report.json()["rows"][1]["failure"], "it is not there");
        assert!(report.json()["rows"][0]["failure"].is_null() && report.json()["rows"][0]["rounds"] == 4);
    }

    #[test]
    fn ratios_are_of_one_round() {
        // A machine that is ten times slower for a round does not change the ratio.
        let reference = Series { times: vec![1.0, 10.0, 1.0], ..Series::new("a") };
        let own = Series { times: vec![2.0, 20.0, 2.0], ..Series::new("b") };
        assert!((own.ratio_to(&reference) - 2.0).abs() < f64::EPSILON);
        assert!((own.above(&reference) - 1.0).abs() < f64::EPSILON);
        assert!((quantile(&[5.0, 1.0, 3.0], 0.5) - 3.0).abs() < f64::EPSILON);
        assert!((quantile(&[5.0, 1.0, 3.0], 0.95) - 5.0).abs() < f64::EPSILON);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
