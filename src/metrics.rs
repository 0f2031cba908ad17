//! Every metric: its name, its unit, its help text. Exposed in OpenMetrics text; `_total` and units are added there.
//!
//! Names are `ruvector_cluster_<what>_<unit>`. Label values come from closed sets (routes, methods, statuses), never from ids
//! of nodes or shards, so that the number of series is bounded. Gauges are read off the published state when asked for.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use ruvector_cluster_client::wire::ShardCounts;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    method: String,
    route: String,
    status: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    method: String,
    route: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Status {
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

type Count = Gauge<u64, AtomicU64>;

/// What is read off the state when metrics are asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Levels {
    /// Raft's term.
    pub term: u64,
    /// Whether this control node leads.
    pub leads: bool,
    /// Highest log index known to be committed.
    pub committed: u64,
    /// Highest log index applied here.
    pub applied: u64,
    /// Syncs of the log's files since this process began.
    pub log_syncs: u64,
    /// Entries made durable by them.
    pub log_entries: u64,
    /// Revision published here.
    pub revision: u64,
    /// Control nodes.
    pub members: u64,
    /// Data nodes not committed down.
    pub nodes_alive: u64,
    /// Data nodes committed down.
    pub nodes_down: u64,
    /// Of those, the ones that gossip hears.
    pub heard_by_others: u64,
    /// Control nodes that gossip hears, this one included.
    pub gossip_control: u64,
    /// Data nodes that gossip hears.
    pub gossip_data: u64,
    /// Shards by status.
    pub shards: ShardCounts,
    /// Migrations that have not ended.
    pub active_migrations: u64,
}

/// All metrics of a control node.
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    request_seconds: Family<Route, Histogram, fn() -> Histogram>,
    term: Count,
    leads: Count,
    committed: Count,
    applied: Count,
    log_syncs: Counter,
    log_entries: Counter,
    revision: Count,
    members: Count,
    nodes: Family<Status, Count>,
    heard_by_others: Count,
    gossip_members: Family<Kind, Count>,
    shards: Family<Status, Count>,
    migrations: Count,
}

/// 0.5 ms to 16 s, doubling: from a stale read to a long forwarded write. Long polls fall into the last.
fn latency_buckets() -> Histogram {
    Histogram::new(std::iter::successors(Some(0.000_5), |bound| Some(bound * 2.0)).take(16))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("ruvector_cluster");
        let requests = Family::default();
        registry.register(
            "http_requests",
            "Requests answered, by method, route and status",
            requests.clone(),
        );
        let request_seconds: Family<Route, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(latency_buckets);
        registry.register_with_unit(
            "http_request_duration",
            "Time to the answer's head, by method and route; long polls and forwarding included",
            Unit::Seconds,
            request_seconds.clone(),
        );
        let mut counter = |name: &str, help: &str| {
            let counter: Counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let log_syncs = counter("raft_log_syncs", "Syncs of the log's files");
        let log_entries =
            counter("raft_log_entries", "Log entries made durable, several by one sync under load");
        let mut gauge = |name: &str, help: &str| {
            let gauge = Count::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let term = gauge("raft_term", "Raft's term");
        let leads = gauge("raft_is_leader", "1 while this control node leads");
        let committed = gauge("raft_committed_index", "Highest log index known here to be committed");
        let applied = gauge("raft_applied_index", "Highest log index applied here");
        let revision = gauge("state_revision", "Revision of the state published here");
        let members = gauge("control_nodes", "Control nodes, learners included");
        let migrations = gauge("migrations_active", "Migrations that have not ended");
        let heard_by_others =
            gauge("data_nodes_heard_by_others", "Data nodes committed down that gossip hears all the same");
        let gossip_members = Family::default();
        registry.register(
            "gossip_members",
            "Members alive as gossip tells this control node, itself included, by kind; 0 while it does not run",
            gossip_members.clone(),
        );
        let nodes = Family::default();
        registry.register("data_nodes", "Data nodes by committed status", nodes.clone());
        let shards = Family::default();
        registry.register("shards", "Shards by status", shards.clone());
        Self {
            registry,
            requests,
            request_seconds,
            term,
            leads,
            committed,
            applied,
            log_syncs,
            log_entries,
            revision,
            members,
            nodes,
            heard_by_others,
            gossip_members,
            shards,
            migrations,
        }
    }
}

impl Metrics {
    /// Counts an answered request. `route` is the pattern, not the path.
    pub fn observe_request(&self, route: &str, method: &Method, status: StatusCode, elapsed: Duration) {
        // Methods that nobody knows would be labels that anybody makes up.
        let known = [Method::GET, Method::PUT, Method::POST, Method::PATCH, Method::DELETE, Method::HEAD];
        let method = if known.contains(method) { method.as_str() } else { "other" };
        let (method, route) = (method.to_owned(), route.to_owned());
        let seconds = elapsed.as_secs_f64();
        self.request_seconds
            .get_or_create(&Route { method: method.clone(), route: route.clone() })
            .observe(seconds);
        let request = Request { method, route, status: u64::from(status.as_u16()) };
        self.requests.get_or_create(&request).inc();
    }

    /// All metrics as OpenMetrics text, the gauges at `levels`.
    ///
    /// # Errors
    /// When a metric has no text form: a bug.
    pub fn encode(&self, levels: &Levels) -> Result<String, fmt::Error> {
        self.term.set(levels.term);
        self.leads.set(u64::from(levels.leads));
        self.committed.set(levels.committed);
        self.applied.set(levels.applied);
        self.log_syncs.inner().store(levels.log_syncs, Ordering::Relaxed);
        self.log_entries.inner().store(levels.log_entries, Ordering::Relaxed);
        self.revision.set(levels.revision);
        self.members.set(levels.members);
        self.migrations.set(levels.active_migrations);
        for (status, count) in [("alive", levels.nodes_alive), ("down", levels.nodes_down)] {
            self.nodes.get_or_create(&Status { status }).set(count);
        }
        self.heard_by_others.set(levels.heard_by_others);
        for (kind, count) in [("control", levels.gossip_control), ("data", levels.gossip_data)] {
            self.gossip_members.get_or_create(&Kind { kind }).set(count);
        }
        let shards = levels.shards;
        for (status, count) in [
            ("active", shards.active),
            ("degraded", shards.degraded),
            ("migrating", shards.migrating),
            ("unavailable", shards.unavailable),
            ("unassigned", shards.unassigned),
        ] {
            self.shards.get_or_create(&Status { status }).set(count);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_named_with_their_units_and_help() {
        let metrics = Metrics::default();
        metrics.observe_request("/v1/map", &Method::GET, StatusCode::OK, Duration::from_millis(3));
        let text = metrics.encode(&Levels { term: 7, leads: true, ..Levels::default() }).unwrap();
        for line in [
            "# UNIT ruvector_cluster_http_request_duration_seconds seconds",
            "ruvector_cluster_http_requests_total{method=\"GET\",route=\"/v1/map\",status=\"200\"} 1",
            "ruvector_cluster_raft_term 7",
            "ruvector_cluster_raft_log_syncs_total 0",
            "ruvector_cluster_raft_is_leader 1",
            "ruvector_cluster_shards{status=\"active\"} 0",
            "ruvector_cluster_gossip_members{kind=\"data\"} 0",
            "ruvector_cluster_data_nodes_heard_by_others 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }
}
