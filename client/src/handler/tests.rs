use std::slice::from_ref;

use super::*;
use crate::agent::ShardHost;
use crate::ids::MigrationId;
use crate::wire::{InSyncMember, Phase, Report, Role};

mod cluster;
mod rig;

use rig::{Does, Rig, assigned, in_phase, me, node};

fn done(report: &Report) -> (bool, Option<Phase>, Option<MigrationId>) {
    (report.done, report.phase, report.migration)
}

#[tokio::test(start_paused = true)]
async fn each_role_and_phase_is_one_call_and_its_report() {
    let (lead, take) = (Role::Primary, Role::Learner);
    let table = [
        (in_phase(take, Phase::Preparing), "create"),
        (in_phase(lead, Phase::Preparing), "forward"),
        (in_phase(take, Phase::Copying), "copy"),
        (in_phase(lead, Phase::HandingOver), "hand_over"),
    ];
    for (assignment, call) in table {
        let mut rig = Rig::new();
        rig.install(from_ref(&assignment)).await;
        let (_, _, report) = rig.report().await;
        let migration = assignment.migration.unwrap();
        assert_eq!(done(&report), (true, Some(migration.phase), Some(migration.id)), "{call}");
        assert_eq!((report.shard, report.epoch), (assignment.shard, assignment.epoch));
        assert_eq!(rig.handler.calls(), ["assigned 0", &format!("{call} 0")]);
    }
    for silent in [
        in_phase(lead, Phase::Queued),
        in_phase(lead, Phase::Copying),
        in_phase(take, Phase::Admitting),
        in_phase(take, Phase::HandingOver),
        in_phase(Role::Replica, Phase::Copying),
        assigned(Role::Replica),
        assigned(lead),
    ] {
        let mut rig = Rig::new();
        rig.install(from_ref(&silent)).await;
        rig.passes(5_000).await;
        assert_eq!(rig.handler.calls(), ["assigned 0"], "{silent:?}");
        assert_eq!(rig.reports(), [], "{silent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn founding_retiring_and_admitting_have_reports_of_their_own() {
    let mut rig = Rig::new();
    rig.install(&[Assignment { founding: true, ..assigned(Role::Replica) }]).await;
    rig.passes(100).await;
    assert_eq!((rig.handler.calls().last().unwrap().as_str(), rig.reports().len()), ("create 0", 0));

    let mut rig = Rig::new();
    rig.install(&[Assignment { founding: true, in_sync_version: 7, ..assigned(Role::Primary) }]).await;
    let set = rig.report().await.2.in_sync_set.unwrap();
    let member = |n| InSyncMember { node: node(n), incarnation: Incarnation(10 + n) };
    assert_eq!((set.if_version, set.members), (7, vec![member(1), member(2)]));

    let mut rig = Rig::new();
    rig.install(&[in_phase(Role::Primary, Phase::Admitting)]).await;
    let report = rig.report().await.2;
    assert_eq!(rig.handler.calls(), ["assigned 0", "admit 0"]);
    assert_eq!((report.migration, report.phase), (Some(MigrationId(1)), Some(Phase::Admitting)));
    let set = report.in_sync_set.unwrap();
    assert_eq!((set.if_version, set.members), (1, vec![member(1), member(2), member(3)]));

    let mut rig = Rig::new();
    rig.install(&[assigned(Role::Retiring)]).await;
    assert!(rig.report().await.2.retired);
    assert_eq!(rig.handler.calls(), ["assigned 0", "delete 0"]);
}

#[tokio::test(start_paused = true)]
async fn a_moot_call_is_cancelled_and_its_result_is_not_reported() {
    let mut rig = Rig::new();
    rig.handler.does("copy", Does::WaitForCancel);
    rig.install(&[in_phase(Role::Learner, Phase::Copying)]).await;
    rig.handler.until("copy 0").await;
    rig.install(&[in_phase(Role::Learner, Phase::Preparing)]).await;
    assert_eq!(done(&rig.report().await.2), (true, Some(Phase::Preparing), Some(MigrationId(1))));
    assert_eq!(rig.handler.calls(), ["assigned 0", "copy 0", "assigned 0", "copy 0 ends", "create 0"]);
    rig.passes(500).await;
    assert_eq!(rig.reports(), []);
}

#[tokio::test(start_paused = true)]
async fn what_a_newer_assignment_leaves_as_it_is_goes_on() {
    let mut rig = Rig::new();
    rig.handler.does("copy", Does::WaitForRelease);
    let copying = in_phase(Role::Learner, Phase::Copying);
    rig.install(from_ref(&copying)).await;
    rig.handler.until("copy 0").await;
    rig.install(&[Assignment { in_sync_version: 9, ..copying.clone() }]).await;
    rig.install(from_ref(&copying)).await;
    rig.passes(10_000).await;
    assert_eq!(rig.handler.count("copy 0"), 1);
    rig.handler.release();
    assert!(rig.report().await.2.done);
    // Another source is another call; so is a source that was restarted.
    let mut moved = copying;
    moved.copies[0].incarnation = Incarnation(99);
    rig.install(&[moved]).await;
    rig.passes(100).await;
    assert_eq!(rig.handler.count("copy 0"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_does_not_end_when_cancelled_is_waited_for_and_complained_of() {
    let mut rig = Rig::new();
    rig.handler.does("copy", Does::WaitForRelease);
    rig.install(&[in_phase(Role::Learner, Phase::Copying)]).await;
    rig.handler.until("copy 0").await;
    rig.install(&[assigned(Role::Retiring)]).await;
    rig.passes(4_000).await;
    assert_eq!(rig.host.overdue(), []);
    rig.passes(2_000).await;
    assert_eq!(rig.host.overdue(), [ShardId(0)]);
    assert_eq!(rig.handler.count("delete 0"), 0, "never two calls of a shard at a time");
    rig.handler.release();
    assert!(rig.report().await.2.retired);
    assert_eq!(rig.host.overdue(), []);
    assert_eq!(rig.handler.most_at_once(), 1);
}

#[tokio::test(start_paused = true)]
async fn failures_are_reported_where_there_is_a_place_and_tried_again() {
    let words = || DutyError::Failed("the disk is on fire".to_owned());
    for (error, told) in
        [(DutyError::Gap, "gap"), (DutyError::NoAnswer, "no_answer"), (words(), "the disk is on fire")]
    {
        let mut rig = Rig::new();
        rig.handler.does("forward", Does::Fail(error));
        rig.install(&[in_phase(Role::Primary, Phase::Preparing)]).await;
        let told_now = rig.report().await;
        assert_eq!(told_now.2.error.as_deref(), Some(told));
        rig.accept(&told_now).await;
        // Put back while preparing the assignment is the same: only another call can go on from there.
        assert!(rig.report().await.2.done, "{told}");
        assert_eq!(rig.handler.count("forward 0"), 2);
    }
    for (assignment, call, error) in [
        (in_phase(Role::Primary, Phase::Preparing), "forward", DutyError::Later("busy".to_owned())),
        (assigned(Role::Retiring), "delete", words()),
        (Assignment { founding: true, ..assigned(Role::Primary) }, "found", DutyError::NoAnswer),
    ] {
        let mut rig = Rig::new();
        for _ in 0..3 {
            rig.handler.does(call, Does::Fail(error.clone()));
        }
        rig.install(&[assignment]).await;
        let report = rig.report().await.2;
        assert!(report.done || report.retired || report.in_sync_set.is_some(), "{report:?}");
        assert_eq!((report.error, rig.handler.count(&format!("{call} 0"))), (None, 4));
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_has_failed() {
    let mut rig = Rig::new();
    rig.handler.does("copy", Does::Panic);
    rig.install(&[in_phase(Role::Learner, Phase::Copying)]).await;
    assert_eq!(rig.report().await.2.error.as_deref(), Some("the handler panicked"));
    assert!(rig.report().await.2.done);
}

#[tokio::test(start_paused = true)]
async fn reports_are_repeated_while_they_hold_and_no_faster_than_they_are_answered() {
    let mut rig = Rig::new();
    rig.install(&[in_phase(Role::Learner, Phase::Preparing)]).await;
    let first = rig.report().await;
    rig.passes(20_000).await;
    assert_eq!(rig.reports(), [], "one without an answer is under way");
    rig.passes(15_000).await;
    assert_eq!(rig.reports(), from_ref(&first.2), "its batch was refused as a whole");
    rig.accept(&first).await;
    rig.passes(900).await;
    let second = rig.report().await;
    assert_eq!(second.2, first.2);
    rig.accept(&second).await;
    rig.passes(3_000).await;
    assert_eq!(rig.reports().len(), 1);
    assert_eq!(rig.handler.count("create 0"), 1, "only the report is repeated");
    rig.install(&[]).await;
    rig.passes(60_000).await;
    assert_eq!(rig.reports(), []);
}

#[tokio::test(start_paused = true)]
async fn progress_is_told_now_and_then() {
    let mut rig = Rig::new();
    rig.handler.does("copy", Does::Progress(vec![(10, 100), (20, 100), (30, 100)], 400));
    rig.handler.does("copy", Does::Nothing);
    rig.install(&[in_phase(Role::Learner, Phase::Copying)]).await;
    let first = rig.report().await;
    assert_eq!((first.2.bytes_done, first.2.bytes_total, first.2.done), (Some(10), Some(100), false));
    rig.accept(&first).await;
    let second = rig.report().await;
    assert_eq!((second.2.bytes_done, second.2.done), (Some(30), false));
    assert!(rig.report().await.2.done);
}

#[tokio::test(start_paused = true)]
async fn duties_are_bounded_and_copying_leaves_room_for_hand_overs() {
    let options = HandlerOptions { max_duties: 4, max_long_duties: 2, ..HandlerOptions::default() };
    let mut rig = Rig::with(options);
    (0..10).for_each(|_| rig.handler.does("copy", Does::WaitForRelease));
    let at = |shard, assignment| Assignment { shard: ShardId(shard), ..assignment };
    let mut all: Vec<Assignment> =
        (0..10).map(|shard| at(shard, in_phase(Role::Learner, Phase::Copying))).collect();
    rig.install(&all).await;
    rig.passes(1_000).await;
    assert_eq!(rig.handler.most_at_once(), 2);
    all.extend((10..30).map(|shard| at(shard, in_phase(Role::Primary, Phase::HandingOver))));
    rig.install(&all).await;
    rig.passes(1_000).await;
    let handed = rig.reports().iter().filter(|report| report.phase == Some(Phase::HandingOver)).count();
    assert_eq!(handed, 20);
    // One that waits for its turn is not begun once it is moot.
    let (moot, rest) = (all.remove(9), all);
    rig.install(&rest).await;
    for _ in 0..9 {
        rig.handler.release();
        rig.passes(100).await;
    }
    assert_eq!(rig.reports().iter().filter(|report| report.done).count(), 9);
    assert_eq!(rig.handler.count(&format!("copy {}", moot.shard)), 0);
    assert!(rig.handler.most_at_once() <= 4);
}

#[tokio::test(start_paused = true)]
async fn a_new_session_begins_everything_anew_and_tells_what_is_no_longer_assigned() {
    let mut rig = Rig::new();
    rig.handler.does("copy", Does::WaitForCancel);
    let other = Assignment { shard: ShardId(1), ..in_phase(Role::Learner, Phase::Preparing) };
    rig.install(&[in_phase(Role::Learner, Phase::Copying), other.clone()]).await;
    assert!(rig.report().await.2.done);
    rig.host.pause().await;
    rig.passes(5_000).await;
    assert_eq!((rig.handler.count("session_ended"), rig.handler.count("copy 0 ends")), (1, 1));
    assert_eq!(rig.reports(), [], "nothing is said between sessions");
    rig.host.begin(Incarnation(12)).await;
    rig.install_anew(&[other]).await;
    let (incarnation, _, report) = rig.report().await;
    assert_eq!((incarnation, report.done), (Incarnation(12), true));
    assert_eq!((rig.handler.count("create 1"), rig.handler.count("unassigned 0")), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_begun_before_the_assignment_is_in_force() {
    let mut rig = Rig::new();
    rig.handler.does("assigned", Does::Fail(DutyError::Gap));
    let copying = in_phase(Role::Learner, Phase::Copying);
    assert!(rig.try_install(from_ref(&copying)).await.is_err());
    rig.passes(5_000).await;
    assert_eq!(rig.handler.count("copy 0"), 0);
    rig.install_anew(&[copying]).await;
    assert!(rig.report().await.2.done);
}

#[tokio::test(start_paused = true)]
async fn a_primary_proposes_the_set_that_its_handler_wants_and_takes_it_back() {
    let mut rig = Rig::new();
    rig.install(&[assigned(Role::Primary)]).await;
    rig.handler.stands(Standing { in_sync: Some(vec![me()]), ..Standing::default() });
    let asked = rig.report().await;
    let members = |report: &Report| -> Vec<NodeId> {
        let set = report.in_sync_set.as_ref().unwrap();
        assert_eq!(set.if_version, 1);
        set.members.iter().map(|member| member.node.clone()).collect()
    };
    assert_eq!(members(&asked.2), [me()]);
    // Its outcome is not known, so nothing else is proposed. Then it is refused, and the other copy answers again.
    rig.handler.stands(Standing::default());
    rig.passes(5_000).await;
    assert_eq!(rig.reports(), []);
    rig.refuse(&asked, "conflict").await;
    assert_eq!(members(&rig.report().await.2), [me(), node(2)], "so that the first one is out of date");
    rig.install(&[Assignment { in_sync_version: 2, ..assigned(Role::Primary) }]).await;
    rig.passes(60_000).await;
    assert_eq!(rig.reports(), []);
}

#[tokio::test(start_paused = true)]
async fn a_lost_copy_and_a_broken_stream_are_told_of_the_handlers_own_accord() {
    let mut rig = Rig::new();
    rig.install(&[assigned(Role::Replica)]).await;
    rig.handler.stands(Standing { lost: true, ..Standing::default() });
    rig.host.nudge(ShardId(0));
    assert!(rig.report().await.2.lost);

    let mut rig = Rig::new();
    rig.handler.stands(Standing { broken: Some(DutyError::NoAnswer), ..Standing::default() });
    rig.install(&[in_phase(Role::Primary, Phase::Copying)]).await;
    assert_eq!(rig.report().await.2.error.as_deref(), Some("no_answer"));
    rig.install(&[in_phase(Role::Primary, Phase::Admitting)]).await;
    rig.passes(5_000).await;
    let reports = rig.reports();
    assert!(!reports.is_empty());
    assert!(
        reports.iter().all(|report| report.error.is_some() && report.in_sync_set.is_none()),
        "{reports:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_the_end_of_all_duties_and_begins_none() {
    let mut rig = Rig::new();
    rig.handler.does("copy", Does::WaitForCancel);
    rig.install(&[in_phase(Role::Learner, Phase::Copying)]).await;
    rig.handler.until("copy 0").await;
    rig.host.close().await;
    assert_eq!(rig.handler.count("copy 0 ends"), 1);
    rig.install(&[in_phase(Role::Learner, Phase::Preparing)]).await;
    rig.passes(1_000).await;
    assert_eq!(rig.handler.count("create 0"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_generation_is_kept_also_for_a_handler_that_keeps_none() {
    let rig = Rig::new();
    assert_eq!(rig.host.generation(), 0);
    rig.host.save_generation(3).await.unwrap();
    assert_eq!(rig.host.generation(), 3);
}
