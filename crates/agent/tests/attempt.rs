//! Whole attempts: a recited model in a directory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use proptest::prelude::*;
use sealign_agent::environment::NoEnvironment;
use sealign_agent::harness::direct::{Direct, DirectVariant};
use sealign_agent::harness::openhands::{OpenHands, Profile};
use sealign_agent::replay::Replay;
use sealign_agent::scripted::{Recital, ScriptedModel};
use sealign_agent::{
    Attempt, Clock, Completion, CompletionRequest, Environment, EnvironmentError, Failure, FileRead,
    FinishReason, Harness, LimitKind, Limits, Model, ModelError, Sampling, Setup, ShellOutput, StuckRule,
    SystemClock,
};
use sealign_manifest::group::TryCause;
use sealign_manifest::record::Usage;
use sealign_manifest::{StopReason, Task};
use sealign_trajectory::observe::Normaliser;
use sealign_trajectory::{Action, Message};
use support::{FAULTY, bash, call, environment, finish, replace, task};

/// Everything an attempt needs, with defaults that a test changes.
struct Bench {
    task: Task,
    harness: Box<dyn Harness>,
    sampling: Sampling,
    limits: Limits,
    rule: StuckRule,
}

impl Bench {
    fn new(profile: Profile) -> Self {
        Self {
            task: task(),
            harness: Box::new(OpenHands::new(profile)),
            sampling: Sampling::default(),
            limits: Limits::default(),
            rule: StuckRule::Off,
        }
    }

    fn setup(&self) -> Setup<'_> {
        Setup {
            task: &self.task,
            seed: 7,
            harness: self.harness.as_ref(),
            sampling: &self.sampling,
            limits: &self.limits,
            stuck_rule: self.rule,
            replay: None,
            prompt_counter: None,
        }
    }

    async fn recite(&self, texts: &[String]) -> Attempt {
        let (_folder, mut environment) = environment().await;
        let model = ScriptedModel::new(Recital::new(texts.iter().cloned()));
        sealign_agent::run(self.setup(), &model, &mut environment, &SystemClock::default()).await.unwrap()
    }
}

fn observation(attempt: &Attempt, turn: usize) -> &str {
    &attempt.turns[turn].observation.as_ref().unwrap()[0].text
}

#[tokio::test]
async fn an_agent_that_fixes_the_fault_and_finishes_leaves_the_fix() {
    let bench = Bench::new(Profile::OpenHands024);
    let (folder, mut environment) = environment().await;
    let texts = [format!("I look.\n\n{}", bash("cat calc.py")), replace("a - b", "a + b"), finish()];
    let model = ScriptedModel::new(Recital::new(texts.clone()));
    let attempt =
        sealign_agent::run(bench.setup(), &model, &mut environment, &SystemClock::default()).await.unwrap();

    assert_eq!((attempt.stop, attempt.turns.len()), (StopReason::Finished, 3));
    assert_eq!(attempt.turns[0].free_text, "I look.");
    assert_eq!(
        observation(&attempt, 0),
        format!(
            "{}\n[The command completed with exit code 0.]\n[Current working directory: /workspace/repo]\n[Command finished with exit code 0]",
            FAULTY.trim_end()
        )
    );
    assert_eq!(attempt.turns[0].observation.as_ref().unwrap()[0].tool.as_deref(), Some("execute_bash"));
    assert_eq!(attempt.turns[2].observation, None);
    assert!(attempt.turns.iter().zip(&texts).all(|(turn, text)| turn.raw.as_ref() == Some(text)));
    assert!(attempt.properties.is_empty(), "{:?}", attempt.properties);
    let fixed = std::fs::read_to_string(folder.path().join("calc.py")).unwrap();
    assert_eq!(fixed, "def add(a, b):\n    return a + b\n");
}

#[tokio::test]
async fn equal_inputs_give_equal_attempts_wherever_the_directory_lies() {
    for profile in [Profile::OpenHands024, Profile::OpenHands028, Profile::Compact] {
        let bench = Bench::new(profile);
        let texts = [
            bash("pwd; ls; cat none; python3 -c 'import calc; print(calc.__file__)'"),
            replace("- b", "+ b"),
            "?".into(),
        ];
        let first = bench.recite(&texts).await;
        assert_eq!(first, bench.recite(&texts).await);
        assert!(!format!("{first:?}").contains("/tmp"), "{first:?}");
    }
}

#[tokio::test]
async fn the_compact_profile_spends_no_word_that_it_need_not() {
    let bench = Bench::new(Profile::Compact);
    let texts = [
        bash("cat calc.py"),
        bash("true"),
        bash("ls none 2>/dev/null"),
        "hm".into(),
        call("x", &[]),
        finish(),
    ];
    let attempt = bench.recite(&texts).await;
    assert_eq!(
        attempt.prompt.iter().map(|m| m.content.as_str()).collect::<Vec<_>>(),
        ["Fix the bug.", "add(2, 3) gives -1, expected 5"]
    );
    let seen: Vec<&str> = (0..5).map(|turn| observation(&attempt, turn)).collect();
    assert_eq!(seen, [FAULTY.trim_end(), "ok", "[exit 2]", "Call a function.", "Invalid call."]);
    assert!(
        attempt.turns.iter().flat_map(|t| t.observation.iter().flatten()).all(|part| part.tool.is_none())
    );
    assert_eq!(attempt.properties["invalidTurns"], 1);
    assert_eq!(attempt.properties["messageTurns"], 1);
}

#[tokio::test]
async fn an_invalid_call_is_an_invalid_action_with_its_raw_text_and_an_error_to_see() {
    let bench = Bench::new(Profile::OpenHands024);
    let text = format!("so:\n{}", call("execute_bash", &[]));
    let attempt = bench.recite(&[text.clone(), finish()]).await;
    assert_eq!(attempt.turns[0].action, Action::Invalid { text, raw_missing: false });
    assert_eq!(
        observation(&attempt, 0),
        "Missing required parameters for function 'execute_bash': {'command'}\n[Error occurred in processing last action]"
    );
}

#[tokio::test]
async fn text_without_a_call_is_nudged_and_from_the_second_time_told_how_to_give_up() {
    let bench = Bench::new(Profile::OpenHands024);
    let attempt = bench.recite(&["Is it?".into(), "Is it?".into(), finish()]).await;
    assert_eq!(attempt.turns[0].action, Action::Message);
    assert!(observation(&attempt, 0).contains("on whatever approach you think is suitable."));
    assert!(!observation(&attempt, 0).contains("give up"));
    assert!(observation(&attempt, 1).contains("give up"));
}

#[tokio::test]
async fn several_commands_at_once_and_polls_are_refused_as_openhands_does() {
    let bench = Bench::new(Profile::OpenHands024);
    let attempt = bench.recite(&[bash("ls\npwd"), bash(""), bash("C-c"), finish()]).await;
    assert!(observation(&attempt, 0).starts_with("ERROR: Cannot execute multiple commands at once."));
    assert!(
        observation(&attempt, 0).ends_with("(1) ls\n(2) pwd\n[Error occurred in processing last action]")
    );
    assert_eq!(observation(&attempt, 1), "ERROR: No previous running command to retrieve logs from.");
    assert_eq!(observation(&attempt, 2), "ERROR: No previous running command to interact with.");
}

#[tokio::test]
async fn long_output_is_cut_in_the_middle_and_keeps_its_trailer() {
    let bench = Bench::new(Profile::OpenHands024);
    let attempt = bench.recite(&[bash("printf 'é%.0s' $(seq 40000)"), finish()]).await;
    let seen = observation(&attempt, 0);
    let mark = "\n[... Observation truncated due to length ...]\n";
    assert_eq!(seen.chars().count(), 30_000 + mark.len());
    assert!(seen.contains(mark) && seen.ends_with("[Command finished with exit code 0]"));
}

#[tokio::test]
async fn a_command_that_runs_out_of_time_has_no_exit_code() {
    let mut bench = Bench::new(Profile::OpenHands024);
    bench.limits.command_seconds = 1;
    let attempt = bench.recite(&[bash("echo a; sleep 60"), finish()]).await;
    assert!(observation(&attempt, 0).starts_with("a\n[The command timed out after 1 seconds."));
    assert!(!observation(&attempt, 0).contains("Command finished"));
}

#[tokio::test]
async fn a_loop_is_ended_by_the_rule_and_counted_without_it() {
    let mut bench = Bench::new(Profile::OpenHands024);
    let texts = vec![bash("ls"); 5];
    for (rule, stop, turns) in [
        (StuckRule::Off, StopReason::TurnLimit, 5),
        (StuckRule::Paper3, StopReason::Stuck, 3),
        (StuckRule::OpenHands024, StopReason::Stuck, 4),
    ] {
        (bench.rule, bench.limits.turns) = (rule, 5);
        let attempt = bench.recite(&texts).await;
        assert_eq!((attempt.stop, attempt.turns.len()), (stop, turns), "{rule:?}");
        assert_eq!((attempt.properties["stuck"], attempt.properties["stuckAtEnd"]), (1, 1));
    }
}

/// Answers with the same text, prompt tokens growing by 100 a request; every request moves the clock by a minute.
struct Metered {
    text: String,
    waited: Duration,
    clock: Mutex<Duration>,
    asked: Mutex<Vec<(u32, usize)>>,
}

impl Metered {
    fn new(text: &str, waited: Duration) -> Self {
        Self { text: text.into(), waited, clock: Mutex::default(), asked: Mutex::default() }
    }
}

impl Clock for Metered {
    fn now(&self) -> Duration {
        *self.clock.lock().unwrap()
    }
}

#[async_trait]
impl Model for Metered {
    async fn complete(&self, request: &CompletionRequest<'_>) -> Result<Completion, ModelError> {
        *self.clock.lock().unwrap() += Duration::from_mins(1);
        let mut asked = self.asked.lock().unwrap();
        asked.push((request.max_tokens, request.messages.len()));
        let usage = Usage { prompt_tokens: 100 * asked.len() as u64, completion_tokens: 10 };
        Ok(Completion { text: self.text.clone(), finish: FinishReason::Length, usage, waited: self.waited })
    }
}

#[tokio::test]
async fn the_context_limit_counts_prompt_and_completion_and_caps_the_next_completion() {
    let mut bench = Bench::new(Profile::Compact);
    bench.limits.context_tokens = 450;
    let (_folder, mut environment) = environment().await;
    let model = Metered::new("hm", Duration::ZERO);
    let attempt = sealign_agent::run(bench.setup(), &model, &mut environment, &model).await.unwrap();
    assert_eq!((attempt.stop, attempt.turns.len()), (StopReason::ContextExceeded, 4));
    let caps: Vec<u32> = model.asked.lock().unwrap().iter().map(|(cap, _)| *cap).collect();
    // The fifth prompt turned out to be 500 tokens: asked, paid for, and not an attempt's turn.
    assert_eq!(caps, [450, 340, 240, 140, 40]);
    assert_eq!(attempt.usage, Usage { prompt_tokens: 1500, completion_tokens: 50 });
    assert_eq!(attempt.properties["cutTurns"], 4);

    let counter = |messages: &[Message]| 100 * messages.len() as u64;
    let setup = Setup { prompt_counter: Some(&counter), ..bench.setup() };
    let model = Metered::new("hm", Duration::ZERO);
    let attempt = sealign_agent::run(setup, &model, &mut environment, &model).await.unwrap();
    assert_eq!((attempt.stop, model.asked.lock().unwrap().len()), (StopReason::ContextExceeded, 2));
}

#[tokio::test]
async fn the_wall_limit_leaves_out_what_was_waited_for_the_server() {
    let mut bench = Bench::new(Profile::Compact);
    (bench.limits.wall_seconds, bench.limits.turns) = (150, 10);
    let (_folder, mut environment) = environment().await;
    for (waited, stop, turns) in
        [(0, StopReason::Timeout, 3), (30, StopReason::Timeout, 5), (60, StopReason::TurnLimit, 10)]
    {
        let model = Metered::new("hm", Duration::from_secs(waited));
        let attempt = sealign_agent::run(bench.setup(), &model, &mut environment, &model).await.unwrap();
        assert_eq!((attempt.stop, attempt.turns.len()), (stop, turns), "{waited}");
    }
}

#[tokio::test]
async fn the_token_limit_counts_every_request() {
    let mut bench = Bench::new(Profile::Compact);
    bench.limits.tokens = Some(300);
    let (_folder, mut environment) = environment().await;
    let model = Metered::new("hm", Duration::ZERO);
    let attempt = sealign_agent::run(bench.setup(), &model, &mut environment, &model).await.unwrap();
    assert_eq!((attempt.stop, attempt.turns.len()), (StopReason::Limit, 2));
}

/// A model that fails, or an environment.
struct Broken(fn() -> ModelError);

#[async_trait]
impl Model for Broken {
    async fn complete(&self, _request: &CompletionRequest<'_>) -> Result<Completion, ModelError> {
        Err((self.0)())
    }
}

#[tokio::test]
async fn an_overflow_ends_the_attempt_and_an_outage_is_no_attempt_at_all() {
    let bench = Bench::new(Profile::Compact);
    let (_folder, mut environment) = environment().await;
    let clock = SystemClock::default();
    let overflow = Broken(|| ModelError::ContextExceeded);
    let attempt = sealign_agent::run(bench.setup(), &overflow, &mut environment, &clock).await.unwrap();
    assert_eq!((attempt.stop, attempt.turns.len()), (StopReason::ContextExceeded, 0));
    let outage = Broken(|| ModelError::Throttled { tries: 3 });
    let failure = sealign_agent::run(bench.setup(), &outage, &mut environment, &clock).await.unwrap_err();
    assert_eq!(failure.cause(), Some(TryCause::Model));
}

struct Failing(fn() -> Result<ShellOutput, EnvironmentError>);

#[async_trait]
impl Environment for Failing {
    async fn exec(&mut self, _command: &str, _timeout: Duration) -> Result<ShellOutput, EnvironmentError> {
        (self.0)()
    }
    async fn read_file(&mut self, _path: &str, _max: usize) -> Result<FileRead, EnvironmentError> {
        Ok(FileRead::Missing)
    }
    async fn write_file(&mut self, _path: &str, _content: &[u8]) -> Result<(), EnvironmentError> {
        Err(EnvironmentError::Refused("read only".into()))
    }
    async fn list_dir(
        &mut self,
        _path: &str,
        _depth: usize,
        _max: usize,
    ) -> Result<Vec<sealign_agent::environment::DirEntry>, EnvironmentError> {
        Ok(vec![])
    }
}

#[tokio::test]
async fn a_passed_limit_is_the_agents_doing_and_a_lost_environment_nobodys() {
    let bench = Bench::new(Profile::Compact);
    let clock = SystemClock::default();
    let model = ScriptedModel::new(Recital::new([bash("x")]));
    let mut killed = Failing(|| Err(EnvironmentError::Limit(LimitKind::Memory)));
    let attempt = sealign_agent::run(bench.setup(), &model, &mut killed, &clock).await.unwrap();
    assert_eq!(attempt.stop, StopReason::Limit);
    assert_eq!(attempt.detail, "the environment's memory limit was passed");

    let mut full = Failing(|| {
        Ok(ShellOutput { exit_code: Some(1), limit: Some(LimitKind::Disk), ..ShellOutput::default() })
    });
    let attempt = sealign_agent::run(bench.setup(), &model, &mut full, &clock).await.unwrap();
    assert_eq!((attempt.stop, attempt.turns.len()), (StopReason::Limit, 1));

    let mut lost = Failing(|| Err(EnvironmentError::Lost("gone".into())));
    let failure = sealign_agent::run(bench.setup(), &model, &mut lost, &clock).await.unwrap_err();
    assert!(matches!(failure, Failure::Environment { .. }) && failure.cause() == Some(TryCause::Sandbox));

    let create = call("str_replace_editor", &[("command", "create"), ("path", "a.py"), ("file_text", "x")]);
    let model = ScriptedModel::new(Recital::new([create, finish()]));
    let attempt = sealign_agent::run(bench.setup(), &model, &mut lost, &clock).await.unwrap();
    assert_eq!(observation(&attempt, 0), "ERROR:\nread only");
}

#[tokio::test]
async fn a_replayed_prefix_is_part_of_the_attempt_when_it_gives_the_same_observations() {
    let bench = Bench::new(Profile::OpenHands024);
    let recorded = bench.recite(&[bash("cat calc.py; date +%H:%M:%S"), bash("ls"), finish()]).await;
    let normaliser = Normaliser::standard(true);
    let replay = Replay { turns: &recorded.turns[..2], normaliser: &normaliser };
    let setup = Setup { replay: Some(replay), ..bench.setup() };
    let (_folder, mut same) = environment().await;
    // The recital goes on after what was said already.
    let model =
        ScriptedModel::new(Recital::new([String::new(), String::new(), replace("a - b", "a + b"), finish()]));
    let attempt = sealign_agent::run(setup, &model, &mut same, &SystemClock::default()).await.unwrap();
    assert_eq!((attempt.stop, attempt.turns.len()), (StopReason::Finished, 4));
    assert_eq!(attempt.properties["replayedTurns"], 2);
    assert_eq!(attempt.turns[1], recorded.turns[1]);

    let (folder, mut other) = environment().await;
    std::fs::write(folder.path().join("more.py"), "").unwrap();
    let attempt = sealign_agent::run(setup, &model, &mut other, &SystemClock::default()).await.unwrap();
    assert_eq!((attempt.stop, attempt.turns.len()), (StopReason::ReplayDiverged, 2));
    assert_eq!(attempt.detail, "turn 2 of the prefix gave another observation");
}

#[tokio::test]
async fn the_direct_harness_asks_once_and_keeps_the_answer() {
    let bench =
        Bench { harness: Box::new(Direct::new(DirectVariant::Plain)), ..Bench::new(Profile::Compact) };
    assert!(!bench.harness.needs_sandbox());
    let model = ScriptedModel::new(Recital::new(["Here:\n```python\ndef add(a, b):\n    return a + b\n```"]));
    let attempt =
        sealign_agent::run(bench.setup(), &model, &mut NoEnvironment, &SystemClock::default()).await.unwrap();
    assert_eq!((attempt.stop, attempt.turns.len()), (StopReason::Finished, 1));
    assert_eq!(attempt.answer.as_deref(), Some("def add(a, b):\n    return a + b\n"));
    assert!(attempt.prompt[0].content.contains(FAULTY.trim_end()), "{}", attempt.prompt[0].content);
}

#[test]
fn the_direct_variants_show_tests_or_documentation() {
    let mut task = task();
    task.tests.fail_to_pass = vec!["add".into()];
    let prompt = |variant, task: &Task| Direct::new(variant).prompt(task);
    let tests = prompt(DirectVariant::FixFromTests, &task).unwrap();
    let shown = format!("```python\n{}\n```\n\nFix bugs in add.\n\n", FAULTY.trim_end());
    assert!(tests[0].content.starts_with(&shown), "{}", tests[0].content);
    let error = prompt(DirectVariant::FixFromDocs, &task).unwrap_err();
    assert_eq!(error.place, "docs");
    task.truth = Some(serde_json::json!({ "docs": "documented" }));
    let docs = prompt(DirectVariant::FixFromDocs, &task).unwrap();
    assert!(docs[0].content.starts_with("```python\ndocumented\n```\n\nFix bugs in add."));
}

#[tokio::test]
async fn what_the_model_sees_next_is_what_training_will_show() {
    let bench = Bench::new(Profile::OpenHands024);
    let (_folder, mut environment) = environment().await;
    let seen = Mutex::new(Vec::new());
    let policy = |messages: &[Message], _seed: u32| {
        *seen.lock().unwrap() = messages.to_vec();
        match messages.iter().filter(|m| m.role == sealign_trajectory::Role::Assistant).count() {
            0 => format!("look\n\n{}", bash("ls")),
            1 => "no call".to_owned(),
            2 => call("nothing", &[]),
            _ => finish(),
        }
    };
    let model = ScriptedModel::new(policy);
    let attempt =
        sealign_agent::run(bench.setup(), &model, &mut environment, &SystemClock::default()).await.unwrap();
    let trajectory: sealign_trajectory::Trajectory = serde_json::from_value(serde_json::json!({
        "id": "a", "source": "s", "task": "t", "outcome": "success", "message_count": 0,
        "prompt": attempt.prompt, "turns": attempt.turns[..3],
        "origin": {"format": "f", "path": "p", "line": 1},
    }))
    .unwrap();
    let options = sealign_trajectory::chat::ChatOptions::default();
    let shown: Vec<Message> = sealign_trajectory::chat::to_chat(&trajectory, &options)
        .into_iter()
        .map(|turn| Message { role: turn.role, content: turn.content })
        .collect();
    assert_eq!(*seen.lock().unwrap(), shown);
}

/// Model output that is no shell command to fear: calls of the editor, broken markup, foreign letters.
fn output() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("<function=str_replace_editor>\n".to_owned()),
        Just("<parameter=command>view</parameter>\n".to_owned()),
        Just("<parameter=command>insert</parameter>\n".to_owned()),
        Just("<parameter=command>undo_edit</parameter>\n".to_owned()),
        Just("<parameter=path>calc.py</parameter>\n".to_owned()),
        Just("<parameter=path>../../etc/passwd</parameter>\n".to_owned()),
        Just("<parameter=view_range>[-1, 9223372036854775807]</parameter>\n".to_owned()),
        Just("<parameter=insert_line>-9223372036854775808</parameter>\n".to_owned()),
        Just("<parameter=new_str>\u{1F600}\n</parameter>\n".to_owned()),
        Just("</function>".to_owned()),
        Just("</function".to_owned()),
        "\\PC{0,6}",
    ];
    proptest::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_model_output_makes_an_attempt_fail(texts in proptest::collection::vec(output(), 1..5)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut bench = Bench::new(Profile::Compact);
        bench.limits.turns = 6;
        bench.rule = StuckRule::OpenHands024;
        let attempt = runtime.block_on(bench.recite(&texts));
        prop_assert!(!attempt.turns.is_empty());
    }
}
