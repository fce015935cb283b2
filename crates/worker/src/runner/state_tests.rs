//! What the board decides.

use sealign_manifest::Digest;

use super::super::pods::PodRole;
use super::*;

const GROUP: &str = "g0001";
const IMAGE: &str = "tasks/one";

fn rules() -> Rules {
    Rules {
        infra_tries: 2,
        attempt_tokens: 100,
        budget_tokens: None,
        budget_finishes: false,
        sandboxed: true,
        parallelism: 2,
        graded: true,
    }
}

fn key(n: u8) -> ItemKey {
    ItemKey::parse(Digest::of_bytes(&[n]).short(32)).unwrap()
}

fn slot(stage: Stage, n: u8) -> Slot {
    Slot { group: GROUP.into(), stage, item: key(n) }
}

fn board(rules: Rules, items: u8) -> Board {
    let mut board = Board::new(rules);
    board.add_group(GROUP, IMAGE, (0..items).map(|n| (key(n), "model".to_owned())));
    board
}

/// The pod of item `n` in a round whose map holds items 0 to 2.
fn pod(n: u8, round: u32, phase: Phase) -> Arc<Pod> {
    let items = (0..3).map(key).collect();
    let map = RoundMap { group: GROUP.into(), stage: Stage::Rollout, round, barren: 0, items };
    Arc::new(Pod {
        name: format!("pod-{n}-r{round}"),
        uid: format!("uid-{n}-r{round}"),
        role: PodRole::Sandbox { map: Arc::new(map), index: u32::from(n) },
        address: "unix:/socket".into(),
        phase,
        exit_code: None,
        reason: String::new(),
    })
}

fn act(board: &mut Board, pods: &[Arc<Pod>]) -> Vec<Action> {
    board.act(pods, &|_| true)
}

fn failed(n: u8, round: u32, cause: TryCause) -> TryRecord {
    TryRecord { item: key(n), round, cause, tokens: Some(0), detail: String::new() }
}

#[test]
fn a_running_pod_starts_its_item_once() {
    let mut board = board(rules(), 3);
    let pods = [pod(1, 0, Phase::Running)];
    let start = Action::Start { slot: slot(Stage::Rollout, 1), pod: Some(pods[0].clone()), round: 0 };
    assert_eq!(act(&mut board, &pods), [start]);
    assert_eq!(act(&mut board, &pods), []);
}

#[test]
fn a_recorded_item_is_never_started_and_its_pod_is_let_go() {
    let mut board = board(rules(), 3);
    board.recorded(&slot(Stage::Rollout, 1), 0);
    let pods = [pod(1, 0, Phase::Running)];
    assert_eq!(act(&mut board, &pods), [Action::Dismiss(pods[0].clone())]);
}

#[test]
fn a_pod_waits_for_the_model_and_for_its_address() {
    let mut board = board(rules(), 3);
    let pods = [pod(0, 0, Phase::Running)];
    assert_eq!(board.act(&pods, &|_| false), []);
    let mut homeless = (*pods[0]).clone();
    homeless.address.clear();
    assert_eq!(act(&mut board, &[Arc::new(homeless)]), []);
    assert_eq!(act(&mut board, &pods).len(), 1);
}

#[test]
fn counted_tries_exhaust_an_item_and_others_do_not() {
    let mut board = board(rules(), 3);
    for round in 0..5 {
        board.failed(&slot(Stage::Rollout, 0), &failed(0, round, TryCause::Preempted));
    }
    board.failed(&slot(Stage::Rollout, 0), &failed(0, 5, TryCause::Sandbox));
    assert_eq!(act(&mut board, &[]), []);
    board.failed(&slot(Stage::Rollout, 0), &failed(0, 6, TryCause::Model));
    let actions = act(&mut board, &[]);
    let text = "every try failed: sandbox x 1, model x 1".to_owned();
    assert_eq!(actions, [Action::Exhaust(slot(Stage::Rollout, 0), text)]);
}

#[test]
fn an_image_that_nobody_pulls_is_no_result_until_another_image_was_pulled() {
    let mut board = board(rules(), 3);
    board.add_group("g0002", "tasks/two", [(key(9), "model".to_owned())]);
    for round in 0..2 {
        board.failed(&slot(Stage::Rollout, 0), &failed(0, round, TryCause::Image));
    }
    assert_eq!(act(&mut board, &[]), []);
    let map =
        RoundMap { group: "g0002".into(), stage: Stage::Rollout, round: 0, barren: 0, items: vec![key(9)] };
    let other = Pod {
        role: PodRole::Sandbox { map: Arc::new(map), index: 0 },
        uid: "other".into(),
        ..(*pod(0, 0, Phase::Running)).clone()
    };
    let actions = act(&mut board, &[Arc::new(other)]);
    assert!(actions.iter().any(|action| matches!(action, Action::Exhaust(..))), "{actions:?}");
}

#[test]
fn what_a_round_left_without_a_word_is_written_as_unseen() {
    let mut board = board(rules(), 3);
    board.recorded(&slot(Stage::Rollout, 2), 0);
    board.failed(&slot(Stage::Rollout, 0), &failed(0, 0, TryCause::Sandbox));
    let actions = act(&mut board, &[pod(1, 1, Phase::Pending)]);
    let unseen = failed(1, 0, TryCause::Unseen);
    assert_eq!(actions, [Action::Fail(slot(Stage::Rollout, 1), unseen)]);
}

#[test]
fn a_pod_that_failed_before_it_was_claimed_is_a_failed_try() {
    let mut board = board(rules(), 3);
    let mut ended = (*pod(0, 0, Phase::Failed)).clone();
    ended.reason = "Evicted: The node was low on resource: memory.".into();
    let actions = act(&mut board, &[Arc::new(ended)]);
    let [Action::Fail(_, failed)] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!((failed.cause, failed.tokens), (TryCause::Preempted, None));
}

#[test]
fn a_pod_that_ended_well_without_a_record_is_looked_into() {
    let mut board = board(rules(), 3);
    let pods = [pod(0, 0, Phase::Succeeded)];
    assert_eq!(act(&mut board, &pods), [Action::Look(slot(Stage::Rollout, 0))]);
    board.open(&slot(Stage::Rollout, 0));
    assert_eq!(act(&mut board, &pods), []);
}

#[test]
fn a_spent_budget_is_marked_and_lets_waiting_pods_go() {
    let mut board = board(Rules { budget_tokens: Some(150), ..rules() }, 3);
    board.recorded(&slot(Stage::Rollout, 0), 60);
    assert!(!board.is_budget_spent());
    let unknown = TryRecord { tokens: None, ..failed(1, 0, TryCause::Sandbox) };
    board.failed(&slot(Stage::Rollout, 1), &unknown);
    let pods = [pod(2, 0, Phase::Running)];
    let actions = act(&mut board, &pods);
    assert_eq!(actions[..2], [Action::MarkBudget(150), Action::Dismiss(pods[0].clone())]);
    let Action::Fail(_, failed) = &actions[2] else { panic!("{actions:?}") };
    assert_eq!((failed.cause, failed.tokens), (TryCause::Suspended, Some(0)));
    assert_eq!(actions.len(), 3);
}

#[test]
fn a_spent_budget_closes_what_is_open_where_the_campaign_says_so() {
    let mut board = board(Rules { budget_tokens: Some(50), budget_finishes: true, ..rules() }, 3);
    board.recorded(&slot(Stage::Rollout, 0), 60);
    let actions = act(&mut board, &[]);
    let mut expected: Vec<Action> = [1, 2].map(|n| Action::NotRun(slot(Stage::Rollout, n))).into();
    expected.insert(0, Action::MarkBudget(50));
    assert_eq!(actions.len(), 3);
    assert!(expected.iter().all(|action| actions.contains(action)), "{actions:?}");
}

#[test]
fn a_stage_closes_when_its_last_item_is_recorded_and_the_board_is_done_after_the_gradings() {
    let mut board = board(rules(), 1);
    board.recorded(&slot(Stage::Rollout, 0), 0);
    assert_eq!(act(&mut board, &[]), [Action::Close(GROUP.into(), Stage::Rollout)]);
    board.rollouts_closed(GROUP, [key(7)]);
    assert_eq!(act(&mut board, &[]), []);
    assert!(!board.is_done());
    board.recorded(&slot(Stage::Grade, 7), 0);
    assert_eq!(act(&mut board, &[]), [Action::Close(GROUP.into(), Stage::Grade)]);
    board.gradings_closed(GROUP);
    assert!(board.is_done());
}

#[test]
fn without_sandboxes_the_plan_is_worked_so_many_at_a_time_and_a_try_has_the_next_number() {
    let mut board = board(Rules { sandboxed: false, ..rules() }, 3);
    let started = act(&mut board, &[]);
    assert_eq!(started.len(), 2);
    let Action::Start { slot, pod: None, round: 0 } = &started[0] else { panic!("{started:?}") };
    let failed = TryRecord { item: slot.item.clone(), ..failed(0, 0, TryCause::Model) };
    board.failed(slot, &failed);
    let again = act(&mut board, &[]);
    let is_next = |action: &Action| matches!(action, Action::Start { slot: s, round: 1, .. } if s == slot);
    assert!(again.iter().any(is_next), "{again:?}");
}

#[test]
fn a_record_that_another_runner_wrote_late_is_found_although_no_round_follows() {
    let mut board = board(rules(), 3);
    let running = pod(1, 0, Phase::Running);
    act(&mut board, std::slice::from_ref(&running));
    board.failed(&slot(Stage::Rollout, 1), &failed(1, 0, TryCause::RunnerLost));
    board.look_for_others(&[running]);
    let looks = act(&mut board, &[]);
    let unserved = [0, 2].map(|n| Action::Look(slot(Stage::Rollout, n)));
    assert_eq!(looks, unserved, "the pod of the other one may still be at work for its runner");
    let ended = Arc::new(Pod { exit_code: Some(10), ..(*pod(1, 0, Phase::Failed)).clone() });
    board.look_for_others(std::slice::from_ref(&ended));
    assert_eq!(act(&mut board, &[ended]), [Action::Look(slot(Stage::Rollout, 1))]);
    board.recorded(&slot(Stage::Rollout, 1), 0);
    board.open(&slot(Stage::Rollout, 2));
    board.look_for_others(&[]);
    assert_eq!(act(&mut board, &[]), [Action::Look(slot(Stage::Rollout, 2))], "and again");
}
