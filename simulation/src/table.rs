//! The migration machine under every fault in every phase: a table, each cell of which is a run of its own.
//!
//! A [`Cell`] says what is migrated, in which phase, and what goes wrong there. The `rig` brings a small cluster with clients into
//! that phase and holds it there, by withholding the reports that would end it; then the fault is injected, and
//! everything goes on until it is at rest. A witness looks at each committed state meanwhile. [`expected`] says
//! which ends are right; [`print`](mod@print) runs all cells and prints the table as Markdown.
//!
//! Invariant: what a cell does follows from its name and a number, the seed, alone.
//!
//! Caveats: one fault a cell; combinations are for the seeds of [`crate::plan`]. A fault comes when its phase was committed and a
//! report that would end it was sent, not at every point in between.

pub mod expected;
mod inject;
pub mod print;
mod rest;
mod rig;
#[cfg(test)]
mod tests;
mod witness;

use std::fmt;

use ruvector_cluster::client::wire::MigrationKind;
use ruvector_cluster_check::Violation;

pub use rig::run;

/// What is migrated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The primary's copy, with its primaryship, to a node without one.
    MovePrimary,
    /// A replica's copy to a node without one.
    MoveReplica,
    /// Primaryship, to a replica.
    Promote,
    /// A fourth copy.
    Add,
    /// A replica's copy, to nowhere.
    Remove,
}

/// Where a migration is when the fault comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It waits for a slot, which another migration has.
    Queued,
    /// `preparing`.
    Preparing,
    /// `copying`.
    Copying,
    /// `admitting`.
    Admitting,
    /// `handing_over`.
    HandingOver,
    /// Done; the giver's copy is to be deleted.
    CleaningDone,
    /// Cancelled while it copied; the target's copy is to be deleted.
    CleaningAborted,
}

/// Declares an enumeration whose values have names for people.
macro_rules! named {
    ($(#[doc = $about:literal])* $of:ident { $($(#[doc = $doc:literal])* $name:ident = $text:literal,)* }) => {
        $(#[doc = $about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $of {
            $($(#[doc = $doc])* $name,)*
        }

        impl $of {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// In words.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

named! {
    /// What goes wrong.
    Fault {
        /// Nothing: the table's own proof that a migration ends well.
        Nothing = "nothing",
        /// The primary's process is killed and started again within its lease.
        PrimaryRestarts = "primary killed, restarted",
        /// The primary's machine is gone.
        PrimaryGone = "primary killed for good",
        /// The primary stands still beyond its lease, and goes on.
        PrimaryPaused = "primary paused beyond its lease",
        /// As with the primary.
        TargetRestarts = "target killed, restarted",
        /// As with the primary.
        TargetGone = "target killed for good",
        /// As with the primary.
        TargetPaused = "target paused beyond its lease",
        /// As with the primary.
        BothRestart = "primary and target killed, restarted",
        /// As with the primary.
        BothGone = "primary and target killed for good",
        /// As with the primary.
        BothPaused = "primary and target paused beyond their leases",
        /// The replica that gives.
        GiverRestarts = "giving replica killed, restarted",
        /// The replica that gives.
        GiverGone = "giving replica killed for good",
        /// The replica that gives.
        GiverPaused = "giving replica paused beyond its lease",
        /// The leader of the control nodes loses its power, and comes back once another one leads.
        LeaderKilled = "leader killed, restarted",
        /// Two of three control nodes.
        MajorityKilled = "a majority of the control nodes killed, restarted",
        /// All control nodes, for longer than leases last.
        AllControlKilled = "all control nodes killed, restarted",
        /// The leader is cut off from everybody.
        LeaderCutOff = "leader cut off from the rest",
        /// The target comes back with an empty disk.
        TargetWiped = "target's store lost, a new one in its place",
        /// The target's copy fails.
        TargetDamaged = "target's copy damaged",
        /// A report that ends the phase comes three times.
        ReportTwice = "the phase's report repeated at once",
        /// A report that ended the phase comes again after the migration's end.
        ReportLate = "the phase's report repeated after the end",
        /// A report of the reporter's run before the last.
        ReportOfOldRun = "the phase's report after its sender's restart",
        /// An operator cancels it.
        Cancelled = "cancelled by an operator",
        /// An operator drains the target.
        TargetDrained = "target drained",
        /// An operator drains who gives.
        GiverDrained = "giver drained",
        /// An operator announces the target's maintenance.
        TargetInMaintenance = "target in maintenance",
        /// An operator pauses what moves by itself.
        MovesPaused = "automatic migrations paused",
        /// The target's disk is full for a while.
        TargetDiskFull = "target's disk full for a while",
    }
}

/// How a migration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// It did what it was to do.
    Done,
    /// It had no effect.
    Aborted,
}

/// One place of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// What is migrated.
    pub kind: Kind,
    /// In which phase.
    pub stage: Stage,
    /// What goes wrong there.
    pub fault: Fault,
}

/// What came of a cell.
#[derive(Clone, Debug)]
pub struct CellReport {
    /// The cell.
    pub cell: Cell,
    /// How its migration ended; none: it never did, or was never begun.
    pub end: Option<End>,
    /// The row's `error`.
    pub error: Option<String>,
    /// How often it was put back to `preparing`.
    pub attempts: u32,
    /// Everything that is wrong.
    pub violations: Vec<Violation>,
    /// Of all that was sent and done.
    pub trace: u64,
    /// Milliseconds of virtual time.
    pub simulated_ms: u64,
}

impl Kind {
    /// All of them.
    pub const ALL: &[Self] = &[Self::MovePrimary, Self::MoveReplica, Self::Promote, Self::Add, Self::Remove];

    /// In words.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::MovePrimary => "move of the primary",
            Self::MoveReplica => "move of a replica",
            Self::Promote => "promotion",
            Self::Add => "new copy",
            Self::Remove => "removal of a copy",
        }
    }

    /// As it is asked for.
    #[must_use]
    pub const fn asked(self) -> MigrationKind {
        match self {
            Self::MovePrimary | Self::MoveReplica => MigrationKind::Move,
            Self::Promote => MigrationKind::Promote,
            Self::Add => MigrationKind::Add,
            Self::Remove => MigrationKind::Remove,
        }
    }

    /// Where it may be when a fault comes.
    #[must_use]
    pub const fn stages(self) -> &'static [Stage] {
        use Stage::{Admitting, CleaningAborted, CleaningDone, Copying, HandingOver, Preparing, Queued};
        match self {
            Self::MovePrimary => {
                &[Queued, Preparing, Copying, Admitting, HandingOver, CleaningDone, CleaningAborted]
            }
            Self::MoveReplica => &[Queued, Preparing, Copying, Admitting, CleaningDone, CleaningAborted],
            Self::Add => &[Queued, Preparing, Copying, Admitting, CleaningAborted],
            Self::Promote => &[Queued, HandingOver],
            Self::Remove => &[Queued, CleaningDone],
        }
    }
}

impl Stage {
    /// In words.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Preparing => "preparing",
            Self::Copying => "copying",
            Self::Admitting => "admitting",
            Self::HandingOver => "handing over",
            Self::CleaningDone => "clean-up after done",
            Self::CleaningAborted => "clean-up after aborted",
        }
    }

    /// Whether the migration has ended before the fault comes.
    #[must_use]
    pub const fn is_cleaning(self) -> bool {
        matches!(self, Self::CleaningDone | Self::CleaningAborted)
    }
}

impl Fault {
    /// Whether it can befall such a migration there.
    #[must_use]
    pub fn can_befall(self, kind: Kind, stage: Stage) -> bool {
        let has_target = kind != Kind::Remove;
        // The target's copy is there from `preparing` on, and of a promotion all the time.
        let target_has_copy = match stage {
            Stage::Queued => kind == Kind::Promote,
            Stage::CleaningAborted => false,
            Stage::Preparing
            | Stage::Copying
            | Stage::Admitting
            | Stage::HandingOver
            | Stage::CleaningDone => has_target,
        };
        match self {
            Self::TargetRestarts
            | Self::TargetGone
            | Self::TargetPaused
            | Self::BothRestart
            | Self::BothGone
            | Self::BothPaused
            | Self::TargetWiped
            | Self::TargetDrained
            | Self::TargetInMaintenance
            | Self::TargetDiskFull => has_target,
            Self::TargetDamaged => target_has_copy,
            Self::GiverRestarts | Self::GiverGone | Self::GiverPaused => {
                matches!(kind, Kind::MoveReplica | Kind::Remove)
            }
            Self::GiverDrained => kind != Kind::Add,
            // A queued migration waits for nobody's report.
            Self::ReportTwice | Self::ReportLate | Self::ReportOfOldRun => stage != Stage::Queued,
            Self::Nothing
            | Self::PrimaryRestarts
            | Self::PrimaryGone
            | Self::PrimaryPaused
            | Self::LeaderKilled
            | Self::MajorityKilled
            | Self::AllControlKilled
            | Self::LeaderCutOff
            | Self::Cancelled
            | Self::MovesPaused => true,
        }
    }
}

impl Cell {
    /// All cells, in the order in which they are printed.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut cells = Vec::new();
        for &kind in Kind::ALL {
            for &fault in Fault::ALL {
                let stages = kind.stages().iter().filter(|stage| fault.can_befall(kind, **stage));
                cells.extend(stages.map(|&stage| Self { kind, stage, fault }));
            }
        }
        cells
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}: {}", self.kind.text(), self.stage.text(), self.fault.text())
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "done",
            Self::Aborted => "aborted",
        })
    }
}
