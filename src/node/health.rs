//! What probes say of one attempt of a container: when each is due, how often it must fail, what follows.
//!
//! Pure: `probe` performs them, `worker/checkup` reports outcomes here. The numbers are Kubernetes' own
//! (kubelet's `prober/worker.go`): a verdict changes once its threshold of equal outcomes in a row is reached,
//! startup holds the others back, an error of the prober itself counts for nothing.

use std::time::Duration;

use super::clock_step::Shift;
use crate::model::time::Timestamp;

#[cfg(test)]
mod tests;

/// Until it was ready for the first time, a container is asked this often at least, whatever its period: the
/// Kubernetes API allows more frequent readiness probes then.
const EAGER: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    /// As Events spell it.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }
}

/// The numbers of one probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub initial_delay: Duration,
    /// At least a second.
    pub period: Duration,
    /// At least 1.
    pub successes: u32,
    pub failures: u32,
}

/// The probes that a container declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Declared {
    pub startup: Option<Timing>,
    pub liveness: Option<Timing>,
    pub readiness: Option<Timing>,
    /// Without a readiness probe: ready once its TCP ports are listened on.
    pub awaits_ports: bool,
}

/// What one probe came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Failure,
    /// It could not be made, or we were held up ourselves: nothing follows.
    Unknown,
}

/// What an outcome changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Nothing,
    Started,
    Ready,
    Unready,
    /// The container is to be restarted.
    Failed,
}

/// The health of one attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    startup: Option<Track>,
    liveness: Option<Track>,
    readiness: Option<Track>,
    started: bool,
    ready: bool,
    awaits_ports: bool,
    is_doomed: bool,
    /// The pod is going: only readiness is asked for any more.
    is_leaving: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Track {
    timing: Timing,
    due: Timestamp,
    /// Equal outcomes in a row, and which.
    run: u32,
    last: Outcome,
    is_under_way: bool,
    /// It has succeeded once.
    has_spoken: bool,
    /// When a failure was told last.
    told_at: Option<Timestamp>,
}

impl Health {
    /// Of a container that has just been started.
    /// `phase`, below 1, spreads probes of many containers over their periods.
    pub fn fresh(declared: &Declared, started_at: Timestamp, phase: f64) -> Health {
        let due = |timing: &Timing| started_at.plus(timing.initial_delay);
        Health::new(declared, due, declared.startup.is_none(), false, phase)
    }

    /// Of a container that an earlier daemon left running: what it was told to be it still is, and nobody is asked
    /// at once, so that the return of the daemon is no flood, nor before its initial delay is over.
    pub fn revived(
        declared: &Declared,
        started_at: Timestamp,
        started: bool,
        ready: bool,
        now: Timestamp,
        phase: f64,
    ) -> Health {
        let due = |timing: &Timing| {
            now.plus(timing.period.mul_f64(phase)).max(started_at.plus(timing.initial_delay))
        };
        Health::new(declared, due, started || declared.startup.is_none(), ready, phase)
    }

    fn new(
        declared: &Declared,
        due: impl Fn(&Timing) -> Timestamp,
        started: bool,
        ready: bool,
        phase: f64,
    ) -> Health {
        let track = |timing: Timing| Track {
            due: due(&timing),
            // A tenth at most: periods are promises.
            timing: Timing { period: timing.period.mul_f64(1.0 - phase / 10.0), ..timing },
            run: 0,
            last: Outcome::Unknown,
            is_under_way: false,
            has_spoken: false,
            told_at: None,
        };
        let waits = declared.readiness.is_some() || declared.awaits_ports;
        let mut readiness = declared.readiness.map(track);
        if let Some(track) = readiness.as_mut() {
            track.has_spoken = ready;
        }
        Health {
            startup: declared.startup.filter(|_| !started).map(track),
            liveness: declared.liveness.map(track),
            readiness,
            started,
            ready: ready || !waits,
            awaits_ports: declared.readiness.is_none() && declared.awaits_ports && !ready,
            is_doomed: false,
            is_leaving: false,
        }
    }

    /// The clock was set.
    pub fn shift(&mut self, shift: Shift) {
        let tracks = self.startup.iter_mut().chain(&mut self.liveness).chain(&mut self.readiness);
        for track in tracks {
            shift.moment(&mut track.due);
            track.told_at.iter_mut().for_each(|at| shift.moment(at));
        }
    }

    /// Its startup probe has succeeded, or it has none.
    pub fn is_started(&self) -> bool {
        self.started
    }

    pub fn is_ready(&self) -> bool {
        self.started && self.ready && !self.is_doomed
    }

    /// Its ports are to be looked at from now on; true once.
    pub fn take_awaited(&mut self) -> bool {
        self.started && std::mem::take(&mut self.awaits_ports)
    }

    /// They are listened on, or it was long enough.
    pub fn ports_open(&mut self) {
        if self.readiness.is_none() {
            self.ready = true;
        }
    }

    /// The pod is being deleted or has reached its end: nothing restarts any more.
    pub fn leave(&mut self) {
        self.is_leaving = true;
    }

    /// Its fate is sealed: whatever probes say, it is stopped.
    pub fn doom(&mut self) {
        self.is_doomed = true;
    }

    /// Probes to make now. Each is under way until its outcome is noted.
    pub fn take_due(&mut self, now: Timestamp) -> Vec<Kind> {
        self.active()
            .into_iter()
            .filter(|(_, track)| track.is_due(now))
            .map(|(kind, track)| {
                track.is_under_way = true;
                kind
            })
            .collect()
    }

    /// How often a probe of that kind is made.
    pub fn period(&self, kind: Kind) -> Option<Duration> {
        let track = match kind {
            Kind::Startup => &self.startup,
            Kind::Liveness => &self.liveness,
            Kind::Readiness => &self.readiness,
        };
        track.as_ref().map(|track| track.timing.period)
    }

    /// When the next one is due; `None` while none is, or while all are under way.
    pub fn next_due(&mut self) -> Option<Timestamp> {
        let waiting = self.active().into_iter().filter(|(_, track)| !track.is_under_way);
        waiting.map(|(_, track)| track.due).min()
    }

    /// Takes an outcome in.
    pub fn note(&mut self, kind: Kind, outcome: Outcome, now: Timestamp) -> Change {
        let was_ready = self.is_ready();
        let (is_leaving, is_doomed) = (self.is_leaving, self.is_doomed);
        let track = match kind {
            Kind::Startup => &mut self.startup,
            Kind::Liveness => &mut self.liveness,
            Kind::Readiness => &mut self.readiness,
        };
        let Some(track) = track else {
            return Change::Nothing;
        };
        let verdict = track.note(outcome, kind == Kind::Readiness, now);
        match (kind, verdict) {
            (_, None) => {}
            (Kind::Startup, Some(true)) => {
                self.startup = None;
                self.started = true;
                return Change::Started;
            }
            (Kind::Liveness, Some(true)) => {}
            (Kind::Startup | Kind::Liveness, Some(false)) if !is_leaving && !is_doomed => {
                self.is_doomed = true;
                return Change::Failed;
            }
            (Kind::Startup | Kind::Liveness, Some(false)) => {}
            (Kind::Readiness, Some(is_ready)) => self.ready = is_ready,
        }
        match (was_ready, self.is_ready()) {
            (false, true) => Change::Ready,
            (true, false) => Change::Unready,
            (true, true) | (false, false) => Change::Nothing,
        }
    }

    /// Whether a failure is to be told now: once a period, however often an eager probe is made.
    pub fn tells(&mut self, kind: Kind, now: Timestamp) -> bool {
        let track = match kind {
            Kind::Startup => &mut self.startup,
            Kind::Liveness => &mut self.liveness,
            Kind::Readiness => &mut self.readiness,
        };
        let Some(track) = track else {
            return true;
        };
        let is_due = track.told_at.is_none_or(|at| now.since(at) >= track.timing.period);
        if is_due {
            track.told_at = Some(now);
        }
        is_due
    }

    /// Startup alone until it succeeded, then the others.
    fn active(&mut self) -> Vec<(Kind, &mut Track)> {
        if self.is_doomed {
            return Vec::new();
        }
        let Health { startup, liveness, readiness, started, is_leaving, .. } = self;
        let restarting = !*is_leaving;
        let startup = startup.as_mut().filter(|_| restarting && !*started);
        let liveness = liveness.as_mut().filter(|_| restarting && *started);
        let readiness = readiness.as_mut().filter(|_| *started);
        [(Kind::Startup, startup), (Kind::Liveness, liveness), (Kind::Readiness, readiness)]
            .into_iter()
            .filter_map(|(kind, track)| Some((kind, track?)))
            .collect()
    }
}

impl Track {
    fn is_due(&self, now: Timestamp) -> bool {
        // A clock that was set back must not silence a probe.
        let longest = self.timing.period.max(self.timing.initial_delay);
        !self.is_under_way && (self.due <= now || self.due.since(now) > longest)
    }

    /// The verdict that this outcome completes.
    fn note(&mut self, outcome: Outcome, is_readiness: bool, now: Timestamp) -> Option<bool> {
        self.is_under_way = false;
        let eager = is_readiness && !self.has_spoken && outcome != Outcome::Success;
        let pause = if eager { self.timing.period.min(EAGER) } else { self.timing.period };
        let next = self.due.plus(pause);
        // What was missed is not made up for.
        self.due = if next > now && next.since(now) <= pause { next } else { now.plus(pause) };
        if outcome == Outcome::Unknown {
            return None;
        }
        self.run = if outcome == self.last { self.run.saturating_add(1) } else { 1 };
        self.last = outcome;
        let succeeded = outcome == Outcome::Success;
        let threshold = if succeeded { self.timing.successes } else { self.timing.failures };
        if self.run < threshold {
            return None;
        }
        self.has_spoken |= succeeded;
        Some(succeeded)
    }
}
