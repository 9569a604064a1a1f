//! Interleaved rounds: in each, every subject is measured once, so that what slows the machine down slows all of them,
//! and a ratio is that of two neighbours in time.

use std::time::{Duration, Instant};

/// Rounds that are not counted: the first start of a tenant makes storage, first runs fill caches.
const WARM_UP: usize = 5;

/// What is measured once a round.
pub(crate) struct Subject<'a> {
    /// A name for each duration that `run` gives.
    pub(crate) names: Vec<String>,
    pub(crate) run: Box<dyn FnMut() -> Vec<Duration> + 'a>,
}

impl<'a> Subject<'a> {
    /// A subject with one duration.
    pub(crate) fn one(name: &str, mut run: impl FnMut() -> Duration + 'a) -> Self {
        Self { names: vec![name.to_owned()], run: Box::new(move || vec![run()]) }
    }
}

/// One duration of every round, in microseconds.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) times: Vec<f64>,
}

/// How long something takes.
pub(crate) fn time(run: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    run();
    begin.elapsed()
}

/// Measures all subjects in every round. The order is turned around in every second round and rotated after it, so that nobody has always the same neighbour: what a subject leaves to the kernel to clear away in the
/// background (a network namespace above all) is paid by whoever comes next.
pub(crate) fn interleave(rounds: usize, subjects: &mut [Subject<'_>]) -> Vec<Series> {
    let mut series: Vec<Vec<Series>> = subjects
        .iter()
        .map(|subject| subject.names.iter().map(|name| Series { name: name.clone(), times: Vec::new() }).collect())
        .collect();
    for round in 0..WARM_UP + rounds {
        for index in order(round, subjects.len()) {
            let times = (subjects[index].run)();
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

/// The value below which a part of the values lies; of none, not a number.
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
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        quantile(&self.times, part)
    }

    /// The median of the ratios to another series, round by round.
    pub(crate) fn ratio_to(&self, reference: &Self) -> f64 {
        let ratios: Vec<f64> = self.times.iter().zip(&reference.times).map(|(own, other)| own / other).collect();
        quantile(&ratios, 0.5)
    }

    /// The median of the differences to another series, round by round, in microseconds.
    pub(crate) fn above(&self, reference: &Self) -> f64 {
        let differences: Vec<f64> = self.times.iter().zip(&reference.times).map(|(own, other)| own - other).collect();
        quantile(&differences, 0.5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn ratios_are_of_one_round() {
        // A machine that gets ten times slower for a round changes no ratio.
        let reference = Series { name: "a".into(), times: vec![1.0, 10.0, 1.0] };
        let own = Series { name: "b".into(), times: vec![2.0, 20.0, 2.0] };
        assert!((own.ratio_to(&reference) - 2.0).abs() < f64::EPSILON);
        assert!((own.above(&reference) - 1.0).abs() < f64::EPSILON);
        assert!((quantile(&[5.0, 1.0, 3.0], 0.5) - 3.0).abs() < f64::EPSILON);
        assert!((quantile(&[5.0, 1.0, 3.0], 0.95) - 5.0).abs() < f64::EPSILON);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
