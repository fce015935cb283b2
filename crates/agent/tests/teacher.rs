//! The scripted teachers of the suite `mini` at work through the real loop.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use sealign_agent::directory::DirectoryEnvironment;
use sealign_agent::harness::openhands::{OpenHands, Profile};
use sealign_agent::scripted::ScriptedModel;
use sealign_agent::{Attempt, Environment, Limits, Sampling, Setup, StuckRule, SystemClock};
use sealign_manifest::{StopReason, Task};
use sealign_tasks::suites::mini::teacher::{PolicyParams, Teacher};
use sealign_tasks::suites::mini::{MiniOptions, Split, TEST_COMMAND, WORKDIR, generate};
use sealign_trajectory::Message;

/// An attempt of a named teacher, and whether the visible tests pass after it.
async fn attempt(task: &Task, teacher: &str, profile: Profile) -> (Attempt, bool) {
    let folder = tempfile::tempdir().unwrap();
    let mut environment = DirectoryEnvironment::new(folder.path(), WORKDIR).unwrap();
    environment.write_files(&task.environment.files).await.unwrap();
    let teacher = Teacher::new(task, PolicyParams::named(teacher).unwrap(), 3).unwrap();
    let model = ScriptedModel::new(move |messages: &[Message], _seed: u32| teacher.next(messages));
    let harness = OpenHands::new(profile);
    let setup = Setup {
        task,
        seed: 3,
        harness: &harness,
        sampling: &Sampling::default(),
        limits: &Limits { turns: 10, ..Limits::default() },
        stuck_rule: StuckRule::Paper3,
        replay: None,
        prompt_counter: None,
    };
    let attempt = sealign_agent::run(setup, &model, &mut environment, &SystemClock::default()).await.unwrap();
    let checked = environment.exec(TEST_COMMAND, Duration::from_secs(30)).await.unwrap();
    (attempt, checked.exit_code == Some(0))
}

#[tokio::test]
async fn a_strong_teacher_repairs_tasks_in_every_profile() {
    let tasks = generate(&MiniOptions::standard(Split::Train, 1, 4)).unwrap();
    for profile in [Profile::Compact, Profile::OpenHands024] {
        let mut repaired = 0;
        for task in &tasks {
            let (attempt, passes) = attempt(task, "strong", profile).await;
            repaired += u32::from(attempt.stop == StopReason::Finished && passes);
        }
        assert!(repaired >= 3, "{repaired} of 4 with {}", profile.name());
    }
}

#[tokio::test]
async fn a_teachers_attempt_is_the_same_when_it_is_made_again() {
    let tasks = generate(&MiniOptions::standard(Split::Train, 2, 2)).unwrap();
    for task in &tasks {
        for teacher in ["strong", "weak"] {
            let first = attempt(task, teacher, Profile::Compact).await;
            assert_eq!(first, attempt(task, teacher, Profile::Compact).await);
        }
    }
}
