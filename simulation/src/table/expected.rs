//! Which ends of a migration are right, cell by cell.
//!
//! The rules are those of DESIGN.md, section 7: what befalls control nodes, or comes twice or late, changes nothing; a party that
//! comes back in time puts a migration back; a party that is declared down ends it, until `handing_over`, from where there is no
//! way back unless the target is not fit. Where both ends stand, two things that are both right are in a race: the end of the old
//! primary's lease, which cuts over, and the verdict about the target, which takes back.

use super::{Cell, End, Fault, Kind, Stage};

const DONE: &[End] = &[End::Done];
const ABORTED: &[End] = &[End::Aborted];
const EITHER: &[End] = &[End::Done, End::Aborted];

/// The ends that a cell may have.
#[must_use]
pub fn expected(cell: Cell) -> &'static [End] {
    let Cell { kind, stage, fault } = cell;
    match (stage, fault) {
        (Stage::CleaningDone, _) => DONE,
        (Stage::CleaningAborted, _) => ABORTED,
        (
            _,
            Fault::Nothing
            | Fault::PrimaryRestarts
            | Fault::BothRestart
            | Fault::GiverRestarts
            | Fault::GiverGone
            | Fault::GiverPaused
            | Fault::GiverDrained
            | Fault::LeaderKilled
            | Fault::MajorityKilled
            | Fault::AllControlKilled
            | Fault::LeaderCutOff
            | Fault::ReportTwice
            | Fault::ReportLate
            | Fault::ReportOfOldRun
            | Fault::MovesPaused
            | Fault::TargetDiskFull,
        ) => DONE,
        // Too late for that.
        (Stage::HandingOver, Fault::Cancelled) => DONE,
        (_, Fault::Cancelled) => ABORTED,
        // The old primary is out of the way: the sooner it is cut over. A promotion's target is who takes over anyway.
        (Stage::HandingOver, Fault::PrimaryGone | Fault::PrimaryPaused) => DONE,
        (_, Fault::PrimaryGone | Fault::PrimaryPaused) if kind == Kind::Promote => DONE,
        (_, Fault::PrimaryGone | Fault::PrimaryPaused) => ABORTED,
        (_, Fault::TargetRestarts) => DONE,
        (
            Stage::HandingOver,
            Fault::TargetGone
            | Fault::TargetPaused
            | Fault::TargetWiped
            | Fault::TargetDamaged
            | Fault::BothGone
            | Fault::BothPaused,
        ) => EITHER,
        // The verdict about the primary may come first, and the target take over before its own.
        (_, Fault::BothGone | Fault::BothPaused) if kind == Kind::Promote => EITHER,
        (
            _,
            Fault::TargetGone
            | Fault::TargetPaused
            | Fault::TargetWiped
            | Fault::BothGone
            | Fault::BothPaused,
        ) => ABORTED,
        // Its primaryship would go to a copy that is no more; any other target makes its copy anew.
        (Stage::Queued, Fault::TargetDamaged) => ABORTED,
        (_, Fault::TargetDamaged) => DONE,
        // It takes no new copies; what has begun goes on, and is moved on from there.
        (Stage::Queued, Fault::TargetDrained | Fault::TargetInMaintenance) if kind != Kind::Promote => {
            ABORTED
        }
        (_, Fault::TargetDrained | Fault::TargetInMaintenance) => DONE,
    }
}
