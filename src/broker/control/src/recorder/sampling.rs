//! Samples: what each tenant used in a minute, now, or in a window, and which tenants waited because of others.

use super::*;

/// The least time between two checks of pressure on one resource.
const PRESSURE_TIME: Duration = Duration::from_secs(10);
/// How long the result of a sample is used in place of a new measurement.
const FRESH_TIME: Duration = Duration::from_secs(5);
/// A tenant that waited for others for less than 1/`WORTH_TELLING` of the time has no incident.
const WORTH_TELLING: u64 = 10;
/// A tenant that its processor limit held back for less than 1/`THROTTLED` of the time has no incident.
const THROTTLED: u64 = 10;

/// When the month of a moment began, in UTC.
fn month_begin(at: Moment) -> Moment {
    let begin =
        i64::try_from(at.0).ok().and_then(|second| jiff::Timestamp::from_second(second).ok()).and_then(|time| {
            let day = time.to_zoned(jiff::tz::TimeZone::UTC).first_of_month().ok()?;
            u64::try_from(day.start_of_day().ok()?.timestamp().as_second()).ok()
        });
    Moment(begin.unwrap_or(at.0))
}

/// The sample of a tenant that is down, for what is known of it nevertheless.
fn unmeasured() -> Sample {
    Sample { seconds: PERIOD.as_secs(), usage: Usage::default(), counters: Usage::default() }
}

/// Logs the end of incidents.
fn tell_of_the_end(over: &[Incident]) {
    for Incident { id, tenant, kind, from, until, faults, .. } in over {
        let seconds = until.0.saturating_sub(from.0);
        info!(target: "bailiwick::event", tenant = %tenant, event = "incident-over", limit = kind, incident = id, faults, seconds, "the incident {kind} of {tenant} is over");
    }
}

impl RecorderState {
    pub(super) fn snapshot(&mut self, tenant: &TenantName, at: Moment) -> Snapshot {
        // Just after a sample the time since it is too short, so the sample itself is used.
        let span = match &self.last {
            Some((at, span)) if at.elapsed() < FRESH_TIME => span.clone(),
            _ => self.since_sample(),
        };
        let bounds = self.bounds_of(tenant);
        let processes = match self.ask(&WardenRequest::Evidence { tenant: tenant.clone() }) {
            Ok(WardenReply::Evidence(processes)) => processes,
            // A jail that is gone has no evidence.
            _ => Vec::new(),
        };
        Snapshot {
            at,
            usage: span.used.get(tenant).cloned().unwrap_or_default(),
            processes,
            pressure: pressure::split(tenant, &span, &bounds),
            sockets: Vec::new(),
            refused: BTreeMap::new(),
        }
    }

    /// The sockets of a tenant that have connections now, or refused requests.
    pub(super) fn sockets_of(&self, tenant: &TenantName, refused: &BTreeMap<SocketName, u64>) -> Vec<SocketUse> {
        let connections = match self.ask(&WardenRequest::Connections) {
            Ok(WardenReply::Connections(mut all)) => Some(all.remove(tenant).unwrap_or_default()),
            _ => None,
        };
        let used: BTreeSet<&SocketName> = refused.keys().chain(connections.iter().flat_map(BTreeMap::keys)).collect();
        let one = |socket: &SocketName| SocketUse {
            socket: socket.clone(),
            connections: connections.as_ref().map(|all| all.get(socket).copied().unwrap_or(0)),
            refused: refused.get(socket).copied().unwrap_or(0),
        };
        used.into_iter().map(one).collect()
    }

    /// The usage since the last sample.
    fn since_sample(&self) -> Span {
        let Some(meter) = &self.meter else { return Span::default() };
        let mut longest = 0;
        let used = self.live.iter().map(|(tenant, live)| {
            longest = longest.max(live.sampled.0.elapsed().as_secs());
            (tenant.clone(), meter.read(&live.gauge).since(&live.sampled.1))
        });
        let used = used.collect();
        Span { used, seconds: longest.max(1), busy: proc::busy_micros().unwrap_or(0).saturating_sub(self.busy) }
    }

    fn bounds_of(&self, tenant: &TenantName) -> Usage {
        self.sources.policy.limits(tenant).map(|limits| Usage::bounds(&limits)).unwrap_or_default()
    }

    /// Records an incident for each tenant that waited for a resource mainly because of others.
    pub(super) fn look_into_pressure(&mut self, resource: Resource) {
        let due = self.pressed.get(&resource).is_none_or(|last| last.elapsed() >= PRESSURE_TIME);
        if !due {
            return;
        }
        self.pressed.insert(resource, Instant::now());
        let span = self.since_sample();
        let tenants: Vec<TenantName> = span.used.keys().cloned().collect();
        for tenant in tenants {
            let shares = pressure::split(&tenant, &span, &self.bounds_of(&tenant));
            let waits = shares.iter().any(|share| {
                share.resource == resource
                    && share.others > share.own
                    && share.others.saturating_mul(WORTH_TELLING) > span.seconds.saturating_mul(1_000_000)
            });
            if waits {
                self.incident(&tenant, IncidentKind::Pressure(resource), 1);
            }
        }
    }

    /// Takes the sample of a minute.
    pub(super) fn sample(&mut self) {
        if self.refresh().is_err() {
            // Without the warden nothing can be measured, and the history has a gap.
            return;
        }
        if let Ok(WardenReply::Disks(disks)) = self.ask(&WardenRequest::Disks) {
            self.metering.reserve_reached = Some(disks.values().any(|disk| disk.held_back));
            self.disks = disks;
        }
        let sessions = self.sources.sessions.now();
        for (tenant, count) in self.sources.sessions.take_refused() {
            self.fault(&tenant, LimitKey::Sessions, count);
        }
        self.read_traffic();
        let mut samples: BTreeMap<TenantName, Sample> = BTreeMap::new();
        let mut faults: Vec<(TenantName, LimitKey, u64)> = Vec::new();
        let mut throttled = Vec::new();
        for (tenant, live) in &mut self.live {
            let Some(meter) = &self.meter else { break };
            let mut reading = meter.read(&live.gauge);
            self.traffic.add_to(tenant, &mut reading);
            let mut usage = traffic::since(&reading, &live.sampled.1);
            usage.0.insert(Measure::Sessions, sessions.get(tenant).copied().unwrap_or(0));
            let seconds = live.sampled.0.elapsed().as_secs().max(1);
            faults.extend(
                reading.faults_since(&live.seen).into_iter().map(|(limit, count)| (tenant.clone(), limit, count)),
            );
            if usage
                .get(Measure::Throttled)
                .is_some_and(|held| held.saturating_mul(THROTTLED) > seconds.saturating_mul(1_000_000))
            {
                throttled.push(tenant.clone());
            }
            live.sampled = (Instant::now(), reading.clone());
            live.metered = reading.clone();
            live.seen = reading;
            samples.insert(tenant.clone(), Sample { seconds, usage, counters: Usage::default() });
        }
        let used = samples.iter().map(|(tenant, sample)| (tenant.clone(), sample.usage.clone())).collect();
        let seconds = samples.values().map(|sample| sample.seconds).max().unwrap_or(1);
        let busy = proc::busy_micros().unwrap_or(self.busy);
        self.last = Some((Instant::now(), Span { seconds, used, busy: busy.saturating_sub(self.busy) }));
        self.busy = busy;
        for (tenant, counters) in self.traffic.counters() {
            // A tenant that is down now may have sent something before.
            samples.entry(tenant.clone()).or_insert_with(unmeasured).counters = counters.clone();
        }
        for (tenant, disk) in &self.disks {
            // The files of a tenant that is down still use disk space.
            let sample = samples.entry(tenant.clone()).or_insert_with(unmeasured);
            sample.usage.0.insert(Measure::Disk, disk.bytes.used);
            sample.usage.0.extend(disk.inodes.map(|inodes| (Measure::Inodes, inodes.used)));
        }
        for (tenant, limit, count) in faults {
            self.fault(&tenant, limit, count);
        }
        for tenant in throttled {
            self.incident(&tenant, IncidentKind::Limit(LimitKey::Cpu), 1);
        }
        self.full_disks();
        self.metering.measured = Some(Instant::now());
        self.traffic.month_is(month_begin(now()));
        let refused = self.traffic.newly_refused(|tenant| self.live.contains_key(tenant));
        match refused {
            Ok(refused) => refused.iter().for_each(|(tenant, refused)| self.refused_packets(tenant, refused)),
            Err(failure) => self.complain_of_traffic(&format!("refused packets are not counted: {failure}")),
        }
        self.tell_of_months();
        self.tell_of_limits(&samples);
        self.store(samples);
    }

    /// Records each share of a volume of the month that a tenant has reached, once a month.
    fn tell_of_months(&mut self) {
        let begin = month_begin(now());
        let is_old = self.told_shares.as_ref().is_none_or(|(month, _)| *month != begin);
        if is_old && let Ok(history) = &self.history {
            let window = Window { from: begin, until: Moment(u64::MAX >> 1) };
            let Ok(counts) = history.fault_counts(window) else { return };
            let share = |word: &String| match IncidentKind::read(word) {
                Some(IncidentKind::Month(share)) => Some(share),
                _ => None,
            };
            let told = counts.iter().map(|(tenant, words)| (tenant.clone(), words.keys().filter_map(share).collect()));
            self.told_shares = Some((begin, told.collect()));
        }
        // Without a history nobody knows what was told.
        let Some((month, told)) = &mut self.told_shares else { return };
        if *month != begin {
            return;
        }
        let mut new = Vec::new();
        for (tenant, reached) in self.traffic.shares() {
            let told = told.entry(tenant.clone()).or_default();
            // With a larger volume the shares are reached once more.
            told.retain(|share| reached.contains(share));
            new.extend(reached.iter().filter(|share| told.insert(**share)).map(|share| (tenant.clone(), *share)));
        }
        for (tenant, share) in new {
            info!(target: "bailiwick::event", tenant = %tenant, event = "month-used", percent = share, "{tenant} has used {share} % of its volume of the month");
            self.count(&tenant, IncidentKind::Month(share), 1);
        }
    }

    /// Reads the counters of traffic. Tenants that nobody knows are ignored.
    pub(super) fn read_traffic(&mut self) {
        if let Err(failure) = self.traffic.read() {
            self.complain_of_traffic(&format!("what tenants send and receive is not measured: {failure}"));
        }
        let (live, disks, loaded) = (&self.live, &self.disks, self.sources.policy.loaded());
        self.traffic.retain(|tenant| {
            loaded.policy.tenants.contains_key(tenant) || live.contains_key(tenant) || disks.contains_key(tenant)
        });
    }

    /// Warns of `bailiwick-net`, at most once in [`COMPLAINT_TIME`].
    fn complain_of_traffic(&mut self, message: &str) {
        if self.complained_of_traffic.is_none_or(|last| last.elapsed() >= COMPLAINT_TIME) {
            self.complained_of_traffic = Some(Instant::now());
            warn!(event = "traffic-not-measured", "{message}");
        }
    }

    /// btrfs reports no hit of a quota. So a tenant whose usage is at its limit counts as having hit it.
    fn full_disks(&mut self) {
        const SLACK: u64 = 64 << 10;
        let full = |(tenant, disk): (&TenantName, &DiskFact)| {
            let at_end = disk.bytes.hard.is_some_and(|hard| disk.bytes.used.saturating_add(SLACK) >= hard);
            (disk.inodes.is_none() && at_end && !disk.held_back).then(|| tenant.clone())
        };
        let full: Vec<TenantName> = self.disks.iter().filter_map(full).collect();
        for tenant in full {
            self.fault(&tenant, LimitKey::Disk, 1);
        }
    }

    fn store(&mut self, samples: BTreeMap<TenantName, Sample>) {
        if self.history.is_err() {
            self.open_history();
        }
        let samples: Vec<(TenantName, Sample)> = samples.into_iter().collect();
        let pending = std::mem::take(&mut self.pending).into_iter();
        let word = |Pending { at, tenant, kind, count }| Fault { at, tenant, limit: kind.to_string(), count };
        let faults: Vec<Fault> = pending.map(word).collect();
        let at = now();
        let kept = self.sources.policy.host().events;
        let Ok(history) = &mut self.history else { return };
        let written = history.write(at, &samples, &faults).and_then(|()| history.maintain());
        let written = written.and_then(|()| events::shorten(history, kept, at));
        let (over, changed) = self.incidents.settle(at);
        tell_of_the_end(&over);
        let stored = changed.into_iter().filter(|incident| incident.id != 0);
        let updated =
            stored.map(|incident| history.update_incident(incident)).collect::<Result<Vec<()>, _>>().map(drop);
        let outcome = written.and(updated).map_err(|error| Failure::new(ExitStatus::Failed, &error).message);
        *lock(&self.problem) = outcome.as_ref().err().cloned();
        if outcome.is_ok() {
            self.metering.history_written = Some(at);
        }
        if let Err(error) = outcome {
            let due = self.complained.is_none_or(|last| last.elapsed() >= COMPLAINT_TIME);
            if due {
                self.complained = Some(Instant::now());
                warn!(event = "history-not-written", "{error}");
            }
        }
    }

    /// The current usage of every tenant: since its last live query if that was 0.2 to 30 s ago, or else since the last
    /// sample.
    pub(crate) fn look(&mut self) -> Result<Vec<TenantUsage>, Failure> {
        const LEAST: Duration = Duration::from_millis(200);
        const MOST: Duration = Duration::from_secs(30);
        let refreshed = self.refresh();
        refreshed.map_err(|error| Failure::of(ExitStatus::Failed, format!("the warden does not answer: {error}")))?;
        if self.traffic.answers() {
            self.read_traffic();
        }
        let sessions = self.sources.sessions.now();
        let mut found = Vec::new();
        for (tenant, live) in &mut self.live {
            let Some(meter) = &self.meter else { break };
            let mut reading = meter.read(&live.gauge);
            self.traffic.add_to(tenant, &mut reading);
            let recent = live.looked.take().filter(|(at, _)| (LEAST..MOST).contains(&at.elapsed()));
            let (at, before) = recent.unwrap_or_else(|| live.sampled.clone());
            let mut usage = traffic::since(&reading, &before);
            usage.0.insert(Measure::Sessions, sessions.get(tenant).copied().unwrap_or(0));
            if let Some(disk) = self.disks.get(tenant) {
                usage.0.insert(Measure::Disk, disk.bytes.used);
                usage.0.extend(disk.inodes.map(|inodes| (Measure::Inodes, inodes.used)));
            }
            live.looked = Some((Instant::now(), reading));
            let millis = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
            // Scale sums to a whole number of seconds.
            let seconds = millis.div_ceil(1000);
            for (measure, value) in &mut usage.0 {
                if measure.kind() == bailiwick_types::Kind::Sum {
                    *value = value.saturating_mul(seconds).saturating_mul(1000) / millis;
                }
            }
            let total = bailiwick_types::Point { at: now(), seconds, peak: usage.clone(), usage };
            let limits = self.sources.policy.limits(tenant).map(|limits| Usage::bounds(&limits)).unwrap_or_default();
            found.push(TenantUsage { tenant: tenant.clone(), total, limits, faults: BTreeMap::new(), services: None });
        }
        Ok(found)
    }

    /// The usage of tenants in a window.
    pub(crate) fn usage(
        &mut self,
        tenants: Option<&[TenantName]>,
        window: Window,
    ) -> Result<Vec<TenantUsage>, Failure> {
        let policy = Arc::clone(&self.sources.policy);
        let history = self.history()?;
        let failed = |error| Failure::new(ExitStatus::Failed, &error);
        let totals = history.totals(window, tenants).map_err(failed)?;
        let mut faults = history.fault_counts(window).map_err(failed)?;
        let limits = |tenant: &TenantName| {
            let declared = policy.limits(tenant);
            declared.map(|limits| Usage::bounds(&limits)).unwrap_or_default()
        };
        let row = |(tenant, total): (TenantName, _)| TenantUsage {
            limits: limits(&tenant),
            faults: faults.remove(&tenant).unwrap_or_default(),
            services: None,
            tenant,
            total,
        };
        Ok(totals.into_iter().map(row).collect())
    }
}
