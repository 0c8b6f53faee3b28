//! What the parts of the daemon count: families of series by label, kept in memory, read by scrapers.
//!
//! It decides nothing by what it counts, and it never grows without bound: a family that has [`MAX_SERIES`] series counts
//! everything further in one whose labels all say `other`.

pub mod exposition;
pub mod figures;
pub mod serve;
mod text;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use self::text::Format;

/// Series of one family. A histogram's buckets count as one.
pub const MAX_SERIES: usize = 20_000;
/// What labels say once a family is full.
const OVERFLOW: &str = "other";
/// Upper bounds, in seconds, for what a person or a program waits for.
pub const LATENCY: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];

/// Everything that is counted. Clones share it.
#[derive(Clone, Default)]
pub struct Registry {
    families: Arc<Mutex<BTreeMap<&'static str, Described>>>,
    /// Run before every scrape, for figures that are looked up rather than counted.
    before: Arc<Mutex<Vec<Box<dyn Fn() + Send>>>>,
}

struct Described {
    help: &'static str,
    series: AnyFamily,
}

enum AnyFamily {
    Counters(Family<Counter>),
    Gauges(Family<Gauge>),
    Histograms(Family<Histogram>),
}

impl Registry {
    /// A family that only grows; its name ends in `_total`.
    pub fn counters(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Family<Counter> {
        assert!(name.ends_with("_total"), "OpenMetrics wants _total at the end of {name}");
        let family = Family::new(labels, Counter::default);
        self.register(name, help, AnyFamily::Counters(family.clone()));
        family
    }

    /// A family that goes up and down.
    pub fn gauges(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Family<Gauge> {
        let family = Family::new(labels, Gauge::default);
        self.register(name, help, AnyFamily::Gauges(family.clone()));
        family
    }

    /// A family of spans; its name ends in `_seconds`. `bounds` are upper bounds in seconds, ascending.
    pub fn histograms(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        bounds: &'static [f64],
    ) -> Family<Histogram> {
        let family = Family::new(labels, move || Histogram::new(bounds));
        self.register(name, help, AnyFamily::Histograms(family.clone()));
        family
    }

    /// Runs `look` before every scrape; it sets gauges and must not wait.
    pub fn before_scrape(&self, look: impl Fn() + Send + 'static) {
        lock(&self.before).push(Box::new(look));
    }

    /// Everything as text for a scraper.
    pub fn render(&self, format: Format) -> String {
        for look in lock(&self.before).iter() {
            look();
        }
        let mut out = text::Text::new(format);
        for (name, described) in lock(&self.families).iter() {
            match &described.series {
                AnyFamily::Counters(family) => {
                    out.family(name, described.help, "counter");
                    family.each(|values, counter| {
                        out.sample(name, family.labels, values, counter.get());
                    });
                }
                AnyFamily::Gauges(family) => {
                    out.family(name, described.help, "gauge");
                    family.each(|values, gauge| {
                        out.sample(name, family.labels, values, gauge.get());
                    });
                }
                AnyFamily::Histograms(family) => {
                    out.family(name, described.help, "histogram");
                    family.each(|values, histogram| {
                        out.histogram(name, family.labels, values, &histogram.read());
                    });
                }
            }
        }
        out.finish()
    }

    fn register(&self, name: &'static str, help: &'static str, series: AnyFamily) {
        let taken = lock(&self.families).insert(name, Described { help, series });
        assert!(taken.is_none(), "{name} is registered once");
    }
}

/// The series of one name, told apart by the values of its labels. Clones share them.
pub struct Family<M> {
    labels: &'static [&'static str],
    make: Arc<dyn Fn() -> M + Send + Sync>,
    /// A short section: look up or insert, never held across a wait.
    series: Arc<Mutex<HashMap<Vec<String>, M>>>,
}

impl<M> Clone for Family<M> {
    fn clone(&self) -> Family<M> {
        Family {
            labels: self.labels,
            make: Arc::clone(&self.make),
            series: Arc::clone(&self.series),
        }
    }
}

impl<M: Clone> Family<M> {
    fn new(
        labels: &'static [&'static str],
        make: impl Fn() -> M + Send + Sync + 'static,
    ) -> Family<M> {
        Family { labels, make: Arc::new(make), series: Arc::default() }
    }

    /// The series with these values, in the order of the labels. Hot paths keep what they got.
    pub fn with(&self, values: &[&str]) -> M {
        assert_eq!(values.len(), self.labels.len(), "a value for each of {:?}", self.labels);
        let mut series = lock(&self.series);
        let mut key: Vec<String> = values.iter().map(|&value| value.to_owned()).collect();
        if series.len() >= MAX_SERIES && !series.contains_key(&key) {
            key = vec![OVERFLOW.to_owned(); self.labels.len()];
        }
        series.entry(key).or_insert_with(|| (self.make)()).clone()
    }

    /// Forgets the series for which `keep` says no.
    pub fn retain(&self, keep: impl Fn(&[String]) -> bool) {
        lock(&self.series).retain(|values, _| keep(values));
    }

    /// All series, in the order of their values.
    pub fn each(&self, mut look: impl FnMut(&[String], &M)) {
        let mut all: Vec<(Vec<String>, M)> = {
            let series = lock(&self.series);
            series.iter().map(|(values, metric)| (values.clone(), metric.clone())).collect()
        };
        all.sort_by(|a, b| a.0.cmp(&b.0));
        for (values, metric) in &all {
            look(values, metric);
        }
    }
}

/// A number that only grows.
#[derive(Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    pub fn increment(&self) {
        self.add(1);
    }

    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Clone, Default)]
pub struct Gauge(Arc<AtomicI64>);

impl Gauge {
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn add(&self, amount: i64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long things took.
#[derive(Clone)]
pub struct Histogram(Arc<Buckets>);

struct Buckets {
    bounds: &'static [f64],
    /// One more than there are bounds: the last is without one.
    counts: Vec<AtomicU64>,
    nanoseconds: AtomicU64,
}

/// A histogram at one moment.
pub(crate) struct Reading {
    bounds: &'static [f64],
    counts: Vec<u64>,
    sum_seconds: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Histogram {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram(Arc::new(Buckets { bounds, counts, nanoseconds: AtomicU64::new(0) }))
    }

    pub fn observe(&self, span: Duration) {
        let seconds = span.as_secs_f64();
        let Buckets { bounds, counts, nanoseconds } = &*self.0;
        let bucket = bounds.iter().position(|bound| seconds <= *bound).unwrap_or(bounds.len());
        counts[bucket].fetch_add(1, Ordering::Relaxed);
        let whole = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        nanoseconds.fetch_add(whole, Ordering::Relaxed);
    }

    /// How many spans were observed.
    pub fn count(&self) -> u64 {
        self.0.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn read(&self) -> Reading {
        Reading {
            bounds: self.0.bounds,
            counts: self.0.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            sum_seconds: self.0.nanoseconds.load(Ordering::Relaxed) as f64 / 1e9,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn filled() -> Registry {
        let registry = Registry::default();
        let requests = registry.counters("joey_requests_total", "Requests.", &["path", "code"]);
        requests.with(&["/b", "2xx"]).add(3);
        requests.with(&["/a\"\\\n", "5xx"]).increment();
        registry.gauges("joey_open", "Connections.", &[]).with(&[]).set(-2);
        let spans = registry.histograms("joey_wait_seconds", "Waits.", &["who"], &[0.1, 1.0]);
        for millis in [50, 100, 500, 2000] {
            spans.with(&["me"]).observe(Duration::from_millis(millis));
        }
        registry
    }

    #[test]
    fn text_for_prometheus() {
        expect![[r#"
            # HELP joey_open Connections.
            # TYPE joey_open gauge
            joey_open -2
            # HELP joey_requests_total Requests.
            # TYPE joey_requests_total counter
            joey_requests_total{path="/a\"\\\n",code="5xx"} 1
            joey_requests_total{path="/b",code="2xx"} 3
            # HELP joey_wait_seconds Waits.
            # TYPE joey_wait_seconds histogram
            joey_wait_seconds_bucket{who="me",le="0.1"} 2
            joey_wait_seconds_bucket{who="me",le="1.0"} 3
            joey_wait_seconds_bucket{who="me",le="+Inf"} 4
            joey_wait_seconds_sum{who="me"} 2.65
            joey_wait_seconds_count{who="me"} 4
        "#]]
        .assert_eq(&filled().render(Format::Prometheus));
    }

    #[test]
    fn open_metrics_names_counters_without_their_suffix_and_ends() {
        let text = filled().render(Format::OpenMetrics);
        assert!(text.contains("# TYPE joey_requests counter\n"), "{text}");
        assert!(text.contains("joey_requests_total{path=\"/b\",code=\"2xx\"} 3\n"), "{text}");
        assert!(text.contains("# UNIT joey_wait_seconds seconds\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn a_full_family_counts_on_in_one_series() {
        let registry = Registry::default();
        let family = registry.counters("joey_flood_total", "A flood.", &["who"]);
        for number in 0..MAX_SERIES + 5 {
            family.with(&[&number.to_string()]).increment();
        }
        assert_eq!(family.with(&["never seen"]).get(), 5);
        assert_eq!(family.with(&["7"]).get(), 1);
        let mut series = 0;
        family.each(|_, _| series += 1);
        assert_eq!(series, MAX_SERIES + 1);
    }

    #[test]
    fn series_that_are_let_go_leave_the_text() {
        let registry = filled();
        let more = registry.counters("joey_more_total", "More.", &["who"]);
        more.with(&["gone"]).increment();
        more.with(&["here"]).increment();
        more.retain(|values| values[0] != "gone");
        let text = registry.render(Format::Prometheus);
        assert!(!text.contains("gone") && text.contains("here"), "{text}");
    }
}
