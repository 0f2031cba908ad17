//! What is explored: each scenario stresses one part of the protocol, within its bounds.

/// How many of each fault and request a run may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// Steps of the clock, of half a lease each.
    pub ticks: u8,
    /// Clients' writes.
    pub writes: u8,
    /// Clients' reads.
    pub reads: u8,
    /// Crashes of data nodes.
    pub crashes: u8,
    /// Stores that are lost while their node is off.
    pub wipes: u8,
    /// Changes of the leader.
    pub leaders: u8,
    /// Migrations that an operator starts.
    pub migrations: u8,
    /// Data nodes cut off from the control nodes.
    pub cuts: u8,
    /// Messages lost.
    pub losses: u8,
    /// Messages delivered, and kept to be delivered again.
    pub repeats: u8,
}

/// What happens at once, as part of the step that causes it; all else is in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AtOnce {
    /// Requests between data nodes.
    pub requests: bool,
    /// Answers between data nodes.
    pub answers: bool,
    /// Reports to the leader.
    pub reports: bool,
    /// What came of reports.
    pub outcomes: bool,
    /// Heartbeats, with each step of the clock.
    pub beats: bool,
    /// Answers to heartbeats.
    pub grants: bool,
    /// Putting assignments in force.
    pub installs: bool,
    /// The leader's decisions, and their proposals.
    pub decisions: bool,
    /// Proposals, once decided.
    pub proposals: bool,
    /// Actions of stores.
    pub stores: bool,
}

impl AtOnce {
    /// Everything.
    pub const ALL: Self = Self {
        requests: true,
        answers: true,
        reports: true,
        outcomes: true,
        beats: true,
        grants: true,
        installs: true,
        decisions: true,
        proposals: true,
        stores: true,
    };
}

/// A named part of the space.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// On the command line.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// Copies of the shard.
    pub copies: u32,
    /// What may happen.
    pub bounds: Bounds,
    /// What is not interleaved.
    pub at_once: AtOnce,
    /// The leader looks at everything, so that it repairs and retires too.
    pub whole: bool,
    /// What happened before the exploration begins, after the shard was opened and written to.
    pub prefix: &'static [Before],
    /// Of so many states one is asked whether something good can still happen; chosen by fingerprint.
    pub good_every: u64,
    /// States within which a run of `all` keeps.
    pub states: usize,
}

/// A step of a scenario's prefix; data nodes are named by their part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// A migration to the node without a copy, just started.
    MoveToSpare,
    /// A migration to the node without a copy, whose first request for a chunk is under way.
    MoveToSpareCopying,
    /// A write that only the replicas have, whose primary restarted and is about to tell them to forget it.
    AlignUnderWay,
    /// The primary has sent no heartbeat for half a lease; all others have.
    SilentPrimary,
    /// The primary fetches no assignments, and neither reaches the other data nodes nor they it; the control nodes do.
    DeafPrimary,
    /// A primaryship that is being handed to a replica, not known to the primary.
    HandOver,
    /// A write that only the replicas have, and its primary's crash before their answers.
    WriteThenCrash,
    /// The replica is off, long enough to be dropped from the in-sync set.
    ReplicaDropped,
}

const NONE: Bounds = Bounds {
    ticks: 0,
    writes: 0,
    reads: 0,
    crashes: 0,
    wipes: 0,
    leaders: 0,
    migrations: 0,
    cuts: 0,
    losses: 0,
    repeats: 0,
};

/// All scenarios.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "replication",
        about: "a write and its messages, stores that take their time, a crash, the failover",
        copies: 2,
        bounds: Bounds { ticks: 3, writes: 1, reads: 1, crashes: 1, ..NONE },
        at_once: AtOnce { requests: false, answers: false, stores: false, ..AtOnce::ALL },
        whole: false,
        prefix: &[],
        good_every: 64,
        states: 15_000,
    },
    Scenario {
        name: "lossy",
        about: "requests and answers lost, or arriving twice; copies dropped and caught up",
        copies: 2,
        bounds: Bounds { ticks: 3, writes: 1, reads: 1, losses: 2, repeats: 1, ..NONE },
        at_once: AtOnce { requests: false, answers: false, ..AtOnce::ALL },
        whole: false,
        prefix: &[],
        good_every: 64,
        states: 15_000,
    },
    Scenario {
        name: "reconciliation",
        about: "three copies, a primary that crashed amid a write, its successors",
        copies: 3,
        bounds: Bounds { ticks: 4, reads: 1, crashes: 1, ..NONE },
        at_once: AtOnce { requests: false, answers: false, ..AtOnce::ALL },
        whole: false,
        prefix: &[Before::WriteThenCrash],
        good_every: 64,
        states: 15_000,
    },
    Scenario {
        name: "in-sync",
        about: "the in-sync set shrinks and grows while reports are late, repeated, or of an earlier run",
        copies: 2,
        bounds: Bounds { ticks: 3, writes: 1, crashes: 2, repeats: 1, ..NONE },
        at_once: AtOnce { reports: false, outcomes: false, ..AtOnce::ALL },
        whole: false,
        prefix: &[],
        good_every: 64,
        states: 15_000,
    },
    Scenario {
        name: "failover",
        about: "verdicts decided and applied in steps, reports between them, a primary cut off, a crash",
        copies: 2,
        bounds: Bounds { ticks: 4, writes: 1, reads: 1, crashes: 1, cuts: 1, ..NONE },
        at_once: AtOnce { decisions: false, proposals: false, reports: false, ..AtOnce::ALL },
        whole: false,
        prefix: &[],
        good_every: 64,
        states: 15_000,
    },
    Scenario {
        name: "leases",
        about: "heartbeats, late grants, late installs, and a second leader",
        copies: 2,
        bounds: Bounds { ticks: 4, reads: 2, leaders: 1, losses: 1, ..NONE },
        at_once: AtOnce { beats: false, grants: false, installs: false, ..AtOnce::ALL },
        whole: false,
        prefix: &[],
        good_every: 64,
        states: 15_000,
    },
    Scenario {
        name: "hand-over",
        about: "a primaryship given away while the primary does not hear of it, or reports late",
        copies: 2,
        bounds: Bounds { ticks: 4, reads: 2, leaders: 1, ..NONE },
        at_once: AtOnce { beats: false, installs: false, reports: false, ..AtOnce::ALL },
        whole: false,
        prefix: &[Before::HandOver],
        good_every: 64,
        states: 15_000,
    },
    Scenario {
        name: "deaf-primary",
        about: "a hand-over that its primary neither fetches nor hears of from its successor",
        copies: 2,
        bounds: Bounds { ticks: 4, writes: 1, reads: 2, crashes: 1, leaders: 1, ..NONE },
        at_once: AtOnce { decisions: false, reports: false, ..AtOnce::ALL },
        whole: false,
        prefix: &[Before::SilentPrimary, Before::DeafPrimary, Before::HandOver],
        good_every: 64,
        states: 15_000,
    },
    Scenario {
        name: "migration",
        about: "a copy filled while the primary writes, gaps, restarts, repeated reports, and its hand-over",
        copies: 2,
        bounds: Bounds { ticks: 2, writes: 1, crashes: 1, repeats: 1, ..NONE },
        at_once: AtOnce { requests: false, answers: false, reports: false, ..AtOnce::ALL },
        whole: false,
        prefix: &[Before::MoveToSpare],
        good_every: 64,
        states: 15_000,
    },
    Scenario {
        name: "copying",
        about: "chunks and forwards in any order, a crash, the hand-over that follows",
        copies: 2,
        bounds: Bounds { ticks: 1, writes: 1, crashes: 1, ..NONE },
        at_once: AtOnce { requests: false, answers: false, ..AtOnce::ALL },
        whole: false,
        prefix: &[Before::MoveToSpareCopying],
        good_every: 64,
        states: 15_000,
    },
    Scenario {
        name: "verdicts",
        about: "a primary that is not heard and drops a copy, while its failover is decided and committed",
        copies: 2,
        bounds: Bounds { ticks: 2, writes: 1, crashes: 1, leaders: 1, ..NONE },
        at_once: AtOnce { beats: false, decisions: false, proposals: false, reports: false, ..AtOnce::ALL },
        whole: false,
        prefix: &[Before::SilentPrimary],
        good_every: 64,
        states: 15_000,
    },
    Scenario {
        name: "wipe",
        about: "stores lost, names taken by other stores, readmission",
        copies: 2,
        bounds: Bounds { ticks: 6, writes: 1, crashes: 2, wipes: 1, ..NONE },
        at_once: AtOnce { decisions: false, reports: false, ..AtOnce::ALL },
        whole: true,
        prefix: &[],
        good_every: 64,
        states: 15_000,
    },
    Scenario {
        name: "last-copy",
        about: "the last in-sync copy goes, with its store or without",
        copies: 2,
        bounds: Bounds { ticks: 6, writes: 1, crashes: 2, wipes: 1, ..NONE },
        at_once: AtOnce { reports: false, ..AtOnce::ALL },
        whole: true,
        prefix: &[Before::ReplicaDropped],
        good_every: 64,
        states: 15_000,
    },
    Scenario {
        name: "late-requests",
        about: "three copies, requests of an earlier primary that arrive under a later one",
        copies: 3,
        bounds: Bounds { ticks: 2, reads: 1, crashes: 1, ..NONE },
        at_once: AtOnce { requests: false, ..AtOnce::ALL },
        whole: false,
        prefix: &[Before::AlignUnderWay],
        good_every: 64,
        states: 15_000,
    },
];

/// The scenario of that name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}
