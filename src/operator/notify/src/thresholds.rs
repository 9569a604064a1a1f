//! When somebody is told: compares what tenants use with the rules for them, and remembers what was told.
//!
//! A threshold is told once, and again after it was clear, or after `repeat`. It is clear once it was for `CLEAR_TIME` and was not
//! passed again meanwhile, and it is told at most once in `QUIET_TIME`. Of several thresholds that are passed at once only the most
//! severe is told. A value that is not known changes nothing.
//!
//! Danger: usage swings, and a tenant can have it swing. A share is clear only below `clear`, so what swings around a threshold is told
//! once; and whatever a tenant does, a threshold gives two messages an hour, one of them of its end.

use crate::mail::{News, NewsKind, addresses};
use crate::state::{NewDelivery, Payload, Queue};
use crate::target::Settings;
use bailiwick_types::{
    Event, EventType, EventValue, Measure, Moment, Notice, NoticeResource, QuotaReading, Recipient, TargetKind,
    TenantMetrics, TenantName, TenantNotices, Threshold,
};
use std::collections::BTreeMap;

/// A threshold of a rule of a tenant. The recipients tell two rules for one resource apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ToldKey {
    /// The tenant.
    pub tenant: TenantName,
    /// What the rule is about.
    pub resource: NoticeResource,
    /// Whom it tells.
    pub to: String,
    /// The threshold.
    pub threshold: Threshold,
}

/// How long a threshold must be clear until its end is told. An event that tells of the end has waited already.
pub(crate) const CLEAR_TIME: u64 = 5 * 60;
/// For how long after it was told a threshold is not told again.
pub(crate) const QUIET_TIME: u64 = 3600;

/// What is remembered of a threshold that was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// When it was last told.
    pub at: Moment,
    /// What became of it.
    pub phase: Phase,
}

/// What became of a threshold that was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It is not clear.
    Told,
    /// It is clear since this moment, which is not long yet.
    Ending(Moment),
    /// It is clear. It is remembered until it may be told again.
    Over,
    /// It is passed again, and not told yet. Only an event brings this, because readings do not show what the kernel refuses.
    Again,
}

impl Known {
    /// Since when it is clear, if that is not over; `None` in place of the whole when it was told and is over.
    #[must_use]
    pub fn open(&self) -> Option<Option<Moment>> {
        match self.phase {
            Phase::Told => Some(None),
            Phase::Ending(since) => Some(Some(since)),
            Phase::Over | Phase::Again => None,
        }
    }

    /// Whether it may be told again.
    fn may_be_told(&self, at: Moment) -> bool {
        has_passed(self.at, at, QUIET_TIME)
    }
}

/// Whether so many seconds are between two moments. A clock that was set back far is no reason to be silent.
fn has_passed(from: Moment, to: Moment, time: u64) -> bool {
    from.0.abs_diff(to.0) >= time
}

/// What was told.
pub type Told = BTreeMap<ToldKey, Known>;

/// A change of what was told; `None` when it is forgotten.
pub type ToldChange = (ToldKey, Option<Known>);

/// What changes, and what is delivered because of it: all of it, or nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Announcement {
    /// The changes.
    pub changes: Vec<ToldChange>,
    /// The deliveries.
    pub deliveries: Vec<NewDelivery>,
}

/// What is known of a resource of a tenant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) used: Option<u64>,
    pub(crate) limit: Option<u64>,
    pub(crate) quota: Option<QuotaReading>,
}

impl Reading {
    pub(crate) fn of(metrics: &TenantMetrics, resource: NoticeResource) -> Self {
        let more = metrics.more.as_deref();
        let get = |measure| metrics.usage.get(measure);
        let Some(measure) = resource.measure() else {
            let month = more.and_then(|more| more.month);
            return Self {
                used: month.map(|month| month.used),
                limit: month.and_then(|month| month.volume),
                quota: None,
            };
        };
        let used = match resource {
            // What the kernel can take back is nobody's shortage.
            NoticeResource::Memory => get(Measure::MemoryUsed).or(get(Measure::Memory)),
            NoticeResource::Sessions => more.map(|more| more.sessions.values().sum()),
            _ => get(measure),
        };
        let limit = more.and_then(|more| more.limits.get(measure));
        Self { used, limit, quota: more.and_then(|more| more.quotas.get(&measure).copied()) }
    }

    /// The used share of the limit in per cent; `None` when it is not known, or there is no limit.
    fn share(&self) -> Option<u64> {
        let (used, limit) = (self.used?, self.limit.filter(|limit| *limit > 0)?);
        u64::try_from(u128::from(used) * 100 / u128::from(limit)).ok()
    }
}

/// Where a threshold stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    Passed,
    Clear,
    /// Neither, or not known.
    Between,
}

fn stand(threshold: Threshold, clear: u8, resource: NoticeResource, reading: &Reading, at: Moment) -> Stand {
    let between = |passed: bool, clear: bool| match (passed, clear) {
        (true, _) => Stand::Passed,
        (_, true) => Stand::Clear,
        _ => Stand::Between,
    };
    let below = |share: u64| share < u64::from(clear);
    match threshold {
        Threshold::Percent(_) | Threshold::Hard if reading.used.is_some() && reading.limit.is_none() => Stand::Clear,
        Threshold::Percent(share) => {
            reading.share().map_or(Stand::Between, |used| between(used >= u64::from(share), below(used)))
        }
        // Only the kernel knows whether the others were at their limit: its word comes as an event.
        Threshold::Hard if !resource.has_soft() => Stand::Between,
        Threshold::Hard => reading.share().map_or(Stand::Between, |used| between(used >= 100, below(used))),
        Threshold::Soft | Threshold::Grace(_) => {
            let (Some(quota), Some(used)) = (reading.quota, reading.used) else { return Stand::Between };
            let is_above = quota.soft.is_some_and(|soft| soft > 0 && quota.soft != quota.hard && used > soft);
            let left = quota.grace_until.filter(|until| *until > 0).map(|until| until.saturating_sub(at.0));
            match threshold {
                Threshold::Grace(most) => between(is_above && left.is_some_and(|left| left <= most.0), !is_above),
                _ => between(is_above, !is_above),
            }
        }
    }
}

/// The most severe comes last: of grace periods that with the least time.
fn severity(threshold: Threshold) -> (u8, u64) {
    match threshold {
        Threshold::Percent(share) => (0, u64::from(share)),
        Threshold::Soft => (1, 0),
        Threshold::Grace(left) => (2, u64::MAX - left.0),
        Threshold::Hard => (3, 0),
    }
}

pub(crate) fn recipients(notice: &Notice) -> String {
    notice.to.iter().map(Recipient::to_string).collect::<Vec<_>>().join(",")
}

/// Judges one rule. `forced` is what an event says of one threshold.
fn judge(
    tenant: &TenantNotices,
    notice: &Notice,
    reading: &Reading,
    told: &Told,
    forced: Option<(Threshold, Stand)>,
    (settings, at): (&Settings, Moment),
) -> Announcement {
    let mut telling = Announcement::default();
    let key = |threshold| ToldKey {
        tenant: tenant.tenant.clone(),
        resource: notice.resource,
        to: recipients(notice),
        threshold,
    };
    let (mut new, mut lasting, mut cleared, mut kept, mut is_quiet) =
        (Vec::new(), Vec::new(), Vec::new(), 0_usize, false);
    for threshold in notice.at.iter().copied() {
        let of_event = forced.filter(|(of, _)| *of == threshold).map(|(_, stand)| stand);
        let stand = match (of_event, forced) {
            (Some(stand), _) => stand,
            // An event says nothing of the others.
            (None, Some(_)) => Stand::Between,
            (None, None) => stand(threshold, notice.clear, notice.resource, reading, at),
        };
        let Some(known) = told.get(&key(threshold)).copied() else {
            if stand == Stand::Passed {
                new.push(threshold);
            }
            continue;
        };
        // What is not known ends nothing.
        let is_read = forced.is_none() && reading.used.is_some();
        let mut becomes = |phase| telling.changes.push((key(threshold), Some(Known { phase, ..known })));
        match (known.phase, stand) {
            (Phase::Told | Phase::Ending(_), Stand::Clear) if of_event.is_some() => cleared.push((threshold, known)),
            (Phase::Told, Stand::Clear) => {
                becomes(Phase::Ending(at));
                kept += 1;
            }
            (Phase::Ending(since), Stand::Clear | Stand::Between) => {
                if is_read && has_passed(since, at, CLEAR_TIME) {
                    cleared.push((threshold, known));
                } else {
                    kept += 1;
                }
            }
            (Phase::Told | Phase::Ending(_), _) => {
                if known.phase != Phase::Told {
                    becomes(Phase::Told);
                }
                kept += 1;
                lasting.push((threshold, known.at));
            }
            (Phase::Again, Stand::Clear) => becomes(Phase::Over),
            (Phase::Over | Phase::Again, Stand::Passed) if known.may_be_told(at) => new.push(threshold),
            (Phase::Again, Stand::Between) if forced.is_none() && known.may_be_told(at) => new.push(threshold),
            (Phase::Over, Stand::Passed) => {
                is_quiet = true;
                if of_event.is_some() && !notice.resource.has_soft() {
                    becomes(Phase::Again);
                }
            }
            (Phase::Again, _) => is_quiet = true,
            (Phase::Over, _) if known.may_be_told(at) => telling.changes.push((key(threshold), None)),
            (Phase::Over, _) => {}
        }
    }
    // Nothing is over while a threshold of the rule is passed, though nobody is told of that yet.
    if is_quiet {
        kept += cleared.len();
        cleared.clear();
    }
    let mut tell = |kind: NewsKind| {
        let news = |language| News {
            tenant: tenant.tenant.clone(),
            resource: notice.resource,
            kind,
            used: reading.used,
            limit: reading.limit.or(reading.quota.and_then(|quota| quota.hard)),
            grace_until: reading.quota.and_then(|quota| quota.grace_until).map(Moment),
            at,
            language,
        };
        let all = addresses(&notice.to, tenant, &settings.host);
        telling.deliveries.extend(all.into_iter().map(|(address, language)| NewDelivery {
            queue: Queue { kind: TargetKind::Mail, target: address.to_string(), tenant: Some(tenant.tenant.clone()) },
            payload: Payload::Notice(news(language)),
        }));
    };
    let now_told = |threshold| (key(threshold), Some(Known { at, phase: Phase::Told }));
    let worst = lasting.iter().copied().max_by_key(|(threshold, _)| severity(*threshold));
    if let Some(threshold) = new.iter().copied().max_by_key(|threshold| severity(*threshold)) {
        // A milder threshold than what was told already brings nothing new.
        if worst.is_none_or(|(told, _)| severity(told) < severity(threshold)) {
            tell(NewsKind::Passed(threshold));
        }
        telling.changes.extend(new.iter().map(|threshold| now_told(*threshold)));
    } else if let (Some((threshold, since)), Some(repeat)) = (worst, notice.repeat)
        && at.0 >= since.0.saturating_add(repeat.0)
    {
        tell(NewsKind::Passed(threshold));
        telling.changes.push(now_told(threshold));
    }
    telling.changes.extend(cleared.iter().map(|(threshold, known)| {
        let over = Known { phase: Phase::Over, ..*known };
        (key(*threshold), Some(over).filter(|over| !over.may_be_told(at)))
    }));
    if !cleared.is_empty() && kept == 0 && new.is_empty() {
        tell(NewsKind::Cleared);
    }
    telling
}

/// Compares readings with the rules of all tenants. What was told for rules that are gone is forgotten.
pub(crate) fn compare(settings: &Settings, readings: &[TenantMetrics], told: &Told, at: Moment) -> Vec<Announcement> {
    let mut tellings = Vec::new();
    for metrics in readings {
        let Some(tenant) = settings.tenants.get(&metrics.tenant) else { continue };
        for notice in &tenant.notices {
            let reading = Reading::of(metrics, notice.resource);
            tellings.push(judge(tenant, notice, &reading, told, None, (settings, at)));
        }
    }
    let is_gone = |key: &&ToldKey| {
        let rules = settings.tenants.get(&key.tenant).map(|tenant| tenant.notices.as_slice()).unwrap_or_default();
        let is_its = |notice: &Notice| {
            notice.resource == key.resource && notice.at.contains(&key.threshold) && recipients(notice) == key.to
        };
        !rules.iter().any(is_its)
    };
    let forgotten = told.keys().filter(is_gone).map(|key| (key.clone(), None)).collect();
    tellings.push(Announcement { changes: forgotten, deliveries: Vec::new() });
    tellings.retain(|telling| *telling != Announcement::default());
    tellings
}

/// What an event says of the limit of a tenant.
fn of_event(event: &Event) -> Option<(&TenantName, NoticeResource, Stand)> {
    let stand = match event.kind {
        EventType::LimitReached | EventType::DiskHard => Stand::Passed,
        EventType::LimitCleared => Stand::Clear,
        _ => return None,
    };
    let EventValue::Text(word) = event.data.get("limit")? else { return None };
    let resource: NoticeResource = word.parse().ok()?;
    // A disk that is below its limit for a moment is told by the readings.
    (stand == Stand::Passed || !resource.has_soft()).then_some((event.tenant.as_ref()?, resource, stand))
}

/// Judges the rules that events are about, in their order.
pub(crate) fn follow(settings: &Settings, events: &[Event], told: &Told) -> Vec<Announcement> {
    let (mut all, mut known) = (Vec::new(), told.clone());
    for event in events {
        let Some((name, resource, stand)) = of_event(event) else { continue };
        let Some(tenant) = settings.tenants.get(name) else { continue };
        let number = |name: &str| match event.data.get(name) {
            Some(EventValue::Number(number)) => u64::try_from(*number).ok(),
            _ => None,
        };
        let reading = Reading { used: number("used"), limit: number("bound").or(tenant.limit(resource)), quota: None };
        for notice in tenant.notices.iter().filter(|notice| notice.resource == resource) {
            let forced = Some((Threshold::Hard, stand));
            let telling = judge(tenant, notice, &reading, &known, forced, (settings, event.at));
            for (key, now) in &telling.changes {
                match now {
                    Some(now) => known.insert(key.clone(), *now),
                    None => known.remove(key),
                };
            }
            all.push(telling);
        }
    }
    all.retain(|telling| *telling != Announcement::default());
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::{Contact, MonthUse, NoticeLanguage, NoticesHost, Period, TenantMore, Usage};

    fn notice(resource: NoticeResource, at: &[&str], to: &[&str], repeat: Option<u64>) -> Notice {
        let at = at.iter().map(|word| word.parse().expect("a threshold")).collect();
        let to = to.iter().map(|word| word.parse().expect("a recipient")).collect();
        Notice { resource, clear: Notice::default_clear(&at), at, to, repeat: repeat.map(Period) }
    }

    fn settings(notices: Vec<Notice>) -> Settings {
        let contact = |mail: &str, language| Contact { mail: [mail.parse().expect("an address")].into(), language };
        let alice = TenantNotices {
            tenant: "alice".parse().expect("a name"),
            contact: contact("alice@example.org", Some(NoticeLanguage::De)),
            notices,
            limits: Usage([(Measure::Memory, 100)].into()),
        };
        let host = NoticesHost { contact: contact("ops@example.org", None), ..NoticesHost::default() };
        Settings { host, tenants: [(alice.tenant.clone(), alice)].into() }
    }

    fn used(resource: NoticeResource, used: u64, quota: Option<QuotaReading>) -> Vec<TenantMetrics> {
        let measure = resource.measure().expect("a measure");
        let more = TenantMore {
            limits: Usage([(measure, 1000)].into()),
            quotas: quota.map(|quota| (measure, quota)).into_iter().collect(),
            ..TenantMore::default()
        };
        vec![TenantMetrics {
            tenant: "alice".parse().expect("a name"),
            plan: None,
            usage: Usage([(measure, used)].into()),
            memory: None,
            more: Some(Box::new(more)),
        }]
    }

    /// Applies an outcome, and returns what it tells whom.
    fn apply(told: &mut Told, tellings: Vec<Announcement>) -> Vec<(String, String)> {
        for (key, now) in tellings.iter().flat_map(|telling| telling.changes.clone()) {
            match now {
                Some(now) => told.insert(key, now),
                None => told.remove(&key),
            };
        }
        let text = |delivery: NewDelivery| {
            let Payload::Notice(news) = delivery.payload else { panic!("no notice") };
            let what = match news.kind {
                NewsKind::Passed(threshold) => threshold.to_string(),
                NewsKind::Cleared => "cleared".to_owned(),
            };
            (delivery.queue.target, what)
        };
        tellings.into_iter().flat_map(|telling| telling.deliveries).map(text).collect()
    }

    #[test]
    fn a_share_is_told_once_until_it_was_clear_and_only_the_worst_of_several() {
        let settings = settings(vec![notice(NoticeResource::Disk, &["80%", "95%"], &["tenant"], None)]);
        let mut told = Told::new();
        let mut step = |minute: u64, amount: u64| {
            let readings = used(NoticeResource::Disk, amount, None);
            let outcome = compare(&settings, &readings, &told, Moment(minute * 60));
            apply(&mut told, outcome).into_iter().map(|(_, what)| what).collect::<Vec<_>>()
        };
        for (minute, amount, golden) in [
            (0, 799, &[][..]),
            (1, 800, &["80%"]),
            (2, 800, &[]),
            (3, 950, &["95%"]),
            (4, 800, &[]),
            (5, 950, &[]),
            (6, 760, &[]),
            (7, 800, &[]),
            (8, 749, &[]),
            (12, 749, &[]),
            (13, 749, &["cleared"]),
            (14, 749, &[]),
            (100, 1200, &["95%"]),
            (101, 900, &[]),
            (102, 0, &[]),
            (107, 0, &["cleared"]),
            (160, 0, &[]),
        ] {
            assert_eq!(step(minute, amount), golden, "{minute}: {amount}");
        }
        assert!(told.is_empty());
    }

    #[test]
    fn whatever_a_tenant_does_a_threshold_gives_two_messages_an_hour() {
        let settings = settings(vec![notice(NoticeResource::Tasks, &["80%"], &["tenant"], None)]);
        let tell_all = |amount: &dyn Fn(u64) -> u64| {
            let mut told = Told::new();
            let mut all = Vec::new();
            for minute in 0..600 {
                let readings = used(NoticeResource::Tasks, amount(minute), None);
                let outcome = compare(&settings, &readings, &told, Moment(minute * 60));
                all.extend(apply(&mut told, outcome).into_iter().map(|(_, what)| (minute, what)));
            }
            all
        };
        let is = |minute, what: &str| (minute, what.to_owned());
        // It crosses each minute: it is never clear for long, so it is told once.
        assert_eq!(tell_all(&|minute| if minute % 2 == 0 { 900 } else { 0 }), [is(0, "80%")]);
        // It waits for the end to be told: one message and its end an hour, whenever it comes.
        for period in 7..=30 {
            let all = tell_all(&|minute| if minute % period == 0 { 900 } else { 0 });
            let tellings: Vec<u64> = all.iter().filter(|(_, what)| what == "80%").map(|(minute, _)| *minute).collect();
            assert!(tellings.windows(2).all(|pair| pair[1] - pair[0] >= 60), "{period}: {tellings:?}");
            assert!(tellings.len() >= 7, "{period}: {tellings:?}");
            let words: Vec<&str> = all.iter().map(|(_, what)| what.as_str()).collect();
            assert!(
                words.chunks(2).all(|pair| pair[0] == "80%" && pair[1..].iter().all(|end| *end == "cleared")),
                "{all:?}"
            );
        }
        // What is passed again soon is told when the hour is over, if it still is.
        let again = tell_all(&|minute| if (1..20).contains(&minute) { 0 } else { 900 });
        assert_eq!(again, [is(0, "80%"), is(6, "cleared"), is(60, "80%")]);
        let gone = tell_all(&|minute| if minute == 0 || (20..40).contains(&minute) { 900 } else { 0 });
        assert_eq!(gone, [is(0, "80%"), is(6, "cleared")]);
        // A value that is not known ends nothing.
        let mut told = Told::new();
        for (minute, amount, count) in [(0, Some(900), 1), (1, Some(0), 0), (30, None, 0), (31, Some(0), 1)] {
            let mut readings = used(NoticeResource::Tasks, amount.unwrap_or_default(), None);
            if amount.is_none() {
                readings[0].usage = Usage::default();
            }
            let outcome = compare(&settings, &readings, &told, Moment(minute * 60));
            assert_eq!(apply(&mut told, outcome).len(), count, "{minute}");
        }
    }

    #[test]
    fn a_refusal_within_the_hour_is_told_when_that_is_over_and_it_has_not_ended() {
        let settings = settings(vec![notice(NoticeResource::Memory, &["hard"], &["tenant"], None)]);
        let event = |minute: u64, kind| Event {
            seq: 1,
            at: Moment(minute * 60),
            kind,
            tenant: Some("alice".parse().expect("a name")),
            actor: None,
            data: [("limit".to_owned(), EventValue::text("memory"))].into(),
        };
        let (reached, cleared) = (EventType::LimitReached, EventType::LimitCleared);
        for (events, golden) in [
            (&[(0, reached), (10, cleared), (20, reached)][..], &[(0, "hard"), (10, "cleared"), (60, "hard")][..]),
            (&[(0, reached), (10, cleared), (20, reached), (30, cleared)], &[(0, "hard"), (10, "cleared")]),
            (&[(0, reached), (10, cleared), (70, reached)], &[(0, "hard"), (10, "cleared"), (70, "hard")]),
        ] {
            let (mut told, mut all) = (Told::new(), Vec::new());
            for minute in 0..120 {
                let of_now: Vec<Event> =
                    events.iter().filter(|(at, _)| *at == minute).map(|(at, kind)| event(*at, *kind)).collect();
                let outcome = follow(&settings, &of_now, &told);
                all.extend(apply(&mut told, outcome).into_iter().map(|(_, what)| (minute, what)));
                let outcome = compare(&settings, &used(NoticeResource::Memory, 10, None), &told, Moment(minute * 60));
                all.extend(apply(&mut told, outcome).into_iter().map(|(_, what)| (minute, what)));
            }
            let all: Vec<(u64, &str)> = all.iter().map(|(minute, what)| (*minute, what.as_str())).collect();
            assert_eq!(all, golden);
        }
    }

    #[test]
    fn a_quota_tells_of_its_soft_limit_and_of_its_grace_period() {
        let rule = notice(NoticeResource::Disk, &["soft", "grace:2d", "hard"], &["tenant"], None);
        let settings = settings(vec![rule]);
        let mut told = Told::new();
        let day = 86_400;
        let quota = |until| QuotaReading { soft: Some(900), hard: Some(1000), grace_until: until };
        for (day_of, amount, quota, golden) in [
            (0, 900, Some(quota(None)), &[][..]),
            (1, 901, Some(quota(Some(8 * day))), &["soft"]),
            (5, 901, Some(quota(Some(8 * day))), &[]),
            (6, 901, Some(quota(Some(8 * day))), &["grace:2d"]),
            (7, 1000, Some(quota(Some(8 * day))), &["hard"]),
            // The reserve of the host is reached: the kernel's bounds say nothing.
            (7, 999, None, &[]),
            (9, 901, Some(quota(Some(8 * day))), &[]),
            (10, 900, Some(quota(None)), &[]),
            (11, 900, Some(quota(None)), &["cleared"]),
        ] {
            let readings = used(NoticeResource::Disk, amount, quota);
            let outcome = compare(&settings, &readings, &told, Moment(day_of * day));
            let told: Vec<String> = apply(&mut told, outcome).into_iter().map(|(_, what)| what).collect();
            assert_eq!(told, golden, "day {day_of}");
        }
    }

    #[test]
    fn what_lasts_is_told_again_after_repeat() {
        let settings = settings(vec![notice(NoticeResource::Tasks, &["50%", "80%"], &["tenant"], Some(3600))]);
        let mut told = Told::new();
        let mut times = Vec::new();
        for minute in 0..=130 {
            let outcome = compare(&settings, &used(NoticeResource::Tasks, 900, None), &told, Moment(minute * 60));
            times.extend(apply(&mut told, outcome).into_iter().map(|(_, what)| (minute, what)));
        }
        let golden = [0, 60, 120].map(|minute| (minute, "80%".to_owned()));
        assert_eq!(times, golden);
    }

    #[test]
    fn each_address_is_told_once_and_rules_of_other_people_are_apart() {
        let rules = vec![
            notice(NoticeResource::Inodes, &["80%"], &["tenant", "admin", "ops@example.org"], None),
            notice(NoticeResource::Inodes, &["90%"], &["root@localhost"], None),
        ];
        let mut settings = settings(rules);
        let mut told = Told::new();
        let outcome = compare(&settings, &used(NoticeResource::Inodes, 850, None), &told, Moment(1));
        let languages: Vec<NoticeLanguage> = outcome
            .iter()
            .flat_map(|telling| &telling.deliveries)
            .map(|delivery| match &delivery.payload {
                Payload::Notice(news) => news.language,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(languages, [NoticeLanguage::De, NoticeLanguage::En]);
        let of = |to: &str, what: &str| (to.to_owned(), what.to_owned());
        assert_eq!(apply(&mut told, outcome), [of("alice@example.org", "80%"), of("ops@example.org", "80%")]);
        let outcome = compare(&settings, &used(NoticeResource::Inodes, 950, None), &told, Moment(61));
        assert_eq!(apply(&mut told, outcome), [of("root@localhost", "90%")]);
        // A rule that is gone is forgotten without a word.
        settings.tenants.clear();
        let outcome = compare(&settings, &[], &told, Moment(121));
        assert_eq!((apply(&mut told, outcome), told.len()), (Vec::new(), 0));
    }

    #[test]
    fn what_is_not_known_changes_nothing_and_a_limit_that_is_gone_clears() {
        let settings = settings(vec![
            notice(NoticeResource::Memory, &["80%"], &["tenant"], None),
            notice(NoticeResource::Network, &["80%"], &["tenant"], None),
        ]);
        let mut told = Told::new();
        let mut readings = used(NoticeResource::Memory, 900, None);
        readings[0].more.as_mut().expect("more").month = Some(MonthUse { used: 90, volume: Some(100) });
        let outcome = compare(&settings, &readings, &told, Moment(1));
        assert_eq!(apply(&mut told, outcome).len(), 2);
        let mut nothing = readings.clone();
        (nothing[0].usage, nothing[0].more) = (Usage::default(), None);
        assert_eq!(compare(&settings, &nothing, &told, Moment(61)), Vec::new());
        // Page cache counts for nothing.
        readings[0].usage.0.insert(Measure::MemoryUsed, 10);
        readings[0].more.as_mut().expect("more").month = Some(MonthUse { used: 90, volume: None });
        for (at, count) in [(61, 0), (360, 0), (361, 2), (3601, 0)] {
            let outcome = compare(&settings, &readings, &told, Moment(at));
            assert_eq!(apply(&mut told, outcome).len(), count, "{at}");
        }
        assert!(told.is_empty());
    }

    #[test]
    fn a_hit_of_a_limit_is_an_event_and_so_is_its_end() {
        let settings = settings(vec![notice(NoticeResource::Memory, &["80%", "hard"], &["tenant"], None)]);
        let event = |kind, limit: &str| Event {
            seq: 1,
            at: Moment(1),
            kind,
            tenant: Some("alice".parse().expect("a name")),
            actor: None,
            data: [("limit".to_owned(), EventValue::text(limit))].into(),
        };
        let mut told = Told::new();
        let hits = [event(EventType::LimitReached, "tasks"), event(EventType::LimitReached, "memory")];
        let outcome = follow(&settings, &[hits.clone(), hits.clone()].concat(), &told);
        let Payload::Notice(news) = &outcome[0].deliveries[0].payload else { panic!("no notice") };
        assert_eq!((news.used, news.limit), (None, Some(100)));
        assert_eq!(apply(&mut told, outcome).into_iter().map(|(_, what)| what).collect::<Vec<_>>(), ["hard"]);
        // A milder threshold tells nothing new, and is remembered.
        let outcome = compare(&settings, &used(NoticeResource::Memory, 900, None), &told, Moment(61));
        assert_eq!((apply(&mut told, outcome).len(), told.len()), (0, 2));
        let outcome = follow(&settings, &[event(EventType::LimitCleared, "memory")], &told);
        assert_eq!(apply(&mut told, outcome).len(), 0, "its share is not clear");
        let outcome = compare(&settings, &used(NoticeResource::Memory, 100, None), &told, Moment(121));
        assert_eq!(apply(&mut told, outcome).len(), 0);
        let outcome = compare(&settings, &used(NoticeResource::Memory, 100, None), &told, Moment(421));
        assert_eq!(apply(&mut told, outcome).into_iter().map(|(_, what)| what).collect::<Vec<_>>(), ["cleared"]);
    }
}
