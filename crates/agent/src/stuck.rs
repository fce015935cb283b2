//! When a runtime detector calls an attempt stuck (specs 1.10). A switchable stop rule, apart from the paper's metric,
//! which is computed from the finished record whatever the rule was.

use sealign_trajectory::key::{KeyOptions, call_key};
use sealign_trajectory::stuck::{STUCK_ROUNDS, is_comparable};
use sealign_trajectory::{Action, Turn};
use serde::{Deserialize, Serialize};

use crate::harness::Seen;

/// Which rule ends an attempt that repeats itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StuckRule {
    /// At the third equal action in a row: the paper's metric as a rule.
    #[serde(rename = "paper3")]
    Paper3,
    /// OpenHands' detector: four equal rounds, three equal actions that end in errors, three equal messages, or two
    /// actions that alternate for six rounds.
    #[serde(rename = "openhands-0.24")]
    OpenHands024,
    /// None.
    #[default]
    #[serde(rename = "off")]
    Off,
}

/// Rounds that must be equal, action and observation.
const REPEAT_ROUNDS: usize = 4;
/// Equal actions that end in errors.
const ERROR_ROUNDS: usize = 3;
/// Rounds that must exist before the rule of errors is asked.
const ERROR_ROUNDS_SEEN: usize = 4;
/// Equal messages without an observation between.
const MONOLOGUE_MESSAGES: usize = 3;
/// Rounds of an alternation.
const ALTERNATION_ROUNDS: usize = 6;

/// Follows an attempt and says when the rule strikes.
#[derive(Clone, Debug)]
pub struct StuckDetector {
    rule: StuckRule,
    keys: Vec<Option<String>>,
    actions: Vec<String>,
    observations: Vec<Seen>,
    messages_in_a_row: Vec<String>,
}

impl StuckDetector {
    /// A detector before the first turn.
    pub fn new(rule: StuckRule) -> Self {
        let (keys, actions, observations, messages_in_a_row) = Default::default();
        Self { rule, keys, actions, observations, messages_in_a_row }
    }

    /// Takes a turn, and says whether the attempt is stuck after it.
    pub fn is_stuck_after(&mut self, turn: &Turn, seen: &Seen) -> bool {
        match self.rule {
            StuckRule::Off => false,
            StuckRule::Paper3 => {
                self.keys.push(is_comparable(turn).then(|| call_key(turn, KeyOptions::default())));
                matches!(last(&self.keys, STUCK_ROUNDS), Some(keys) if keys.iter().all(Option::is_some) && all_equal(keys))
            }
            StuckRule::OpenHands024 => {
                self.remember(turn, seen);
                self.repeats() || self.repeats_errors() || self.is_monologue() || self.alternates()
            }
        }
    }

    /// OpenHands keeps no action for an output it could not parse, only the error; its user messages do not count.
    fn remember(&mut self, turn: &Turn, seen: &Seen) {
        // Equality there is that of the whole action, thought included.
        let written = match &turn.action {
            Action::Calls { calls } => format!("{}\0{calls:?}", turn.free_text),
            Action::Message => turn.free_text.clone(),
            Action::Invalid { .. } => String::new(),
        };
        match &turn.action {
            Action::Message => self.messages_in_a_row.push(written.clone()),
            Action::Calls { .. } | Action::Invalid { .. } => self.messages_in_a_row.clear(),
        }
        if !matches!(turn.action, Action::Invalid { .. }) {
            self.actions.push(written);
        }
        if !matches!(seen, Seen::Nothing | Seen::User) {
            self.observations.push(seen.clone());
            self.messages_in_a_row.clear();
        }
    }

    fn repeats(&self) -> bool {
        let actions = last(&self.actions, REPEAT_ROUNDS).is_some_and(all_equal);
        actions && last(&self.observations, REPEAT_ROUNDS).is_some_and(all_equal)
    }

    fn repeats_errors(&self) -> bool {
        let enough = self.actions.len() >= ERROR_ROUNDS_SEEN && self.observations.len() >= ERROR_ROUNDS_SEEN;
        let all_errors = |seen: &[Seen]| seen.iter().all(|one| matches!(one, Seen::Error(_)));
        enough
            && last(&self.actions, ERROR_ROUNDS).is_some_and(all_equal)
            && last(&self.observations, ERROR_ROUNDS).is_some_and(all_errors)
    }

    fn is_monologue(&self) -> bool {
        last(&self.messages_in_a_row, MONOLOGUE_MESSAGES).is_some_and(all_equal)
    }

    fn alternates(&self) -> bool {
        let actions = last(&self.actions, ALTERNATION_ROUNDS).is_some_and(every_second_equal);
        actions && last(&self.observations, ALTERNATION_ROUNDS).is_some_and(every_second_equal)
    }
}

fn last<T>(items: &[T], count: usize) -> Option<&[T]> {
    items.get(items.len().checked_sub(count)?..)
}

fn all_equal<T: PartialEq>(items: &[T]) -> bool {
    items.windows(2).all(|pair| pair.first() == pair.last())
}

fn every_second_equal<T: PartialEq>(items: &[T]) -> bool {
    items.windows(3).all(|three| three.first() == three.last())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealign_trajectory::ToolCall;
    use serde_json::json;

    fn act(thought: &str, command: &str) -> Turn {
        let arguments = json!({ "command": command }).as_object().cloned().unwrap();
        let calls = vec![ToolCall { name: "execute_bash".into(), arguments }];
        turn(thought, Action::Calls { calls })
    }

    fn turn(free_text: &str, action: Action) -> Turn {
        Turn { raw: None, free_text: free_text.into(), action, observation: None, condensed_before: false }
    }

    fn ran(command: &str, exit_code: i32) -> Seen {
        Seen::Command { command: command.into(), exit_code }
    }

    /// The turn, counted from 1, at which the rule strikes.
    fn strikes(rule: StuckRule, turns: &[(Turn, Seen)]) -> Option<usize> {
        let mut detector = StuckDetector::new(rule);
        turns.iter().position(|(turn, seen)| detector.is_stuck_after(turn, seen)).map(|index| index + 1)
    }

    #[test]
    fn four_equal_rounds_are_a_repeat_whatever_the_output() {
        let rounds = vec![(act("", "ls"), ran("ls", 0)); 5];
        assert_eq!(strikes(StuckRule::OpenHands024, &rounds), Some(4));
        assert_eq!(strikes(StuckRule::Paper3, &rounds), Some(3));
        assert_eq!(strikes(StuckRule::Off, &rounds), None);
    }

    #[test]
    fn another_thought_or_exit_code_breaks_a_repeat_but_not_the_papers_metric() {
        let thoughts = ["a", "b", "c", "d", "e"].map(|thought| (act(thought, "ls"), ran("ls", 0)));
        assert_eq!(strikes(StuckRule::OpenHands024, &thoughts), None);
        assert_eq!(strikes(StuckRule::Paper3, &thoughts), Some(3));
        let codes = [0, 1, 0, 0, 0].map(|code| (act("", "ls"), ran("ls", code)));
        assert_eq!(strikes(StuckRule::OpenHands024, &codes), None);
    }

    #[test]
    fn three_equal_actions_that_end_in_errors_are_a_repeat_from_the_fourth_round_on() {
        let error = |text: &str| Seen::Error(text.into());
        let mut rounds = vec![(act("", "pwd"), ran("pwd", 0))];
        rounds.extend(["one", "two", "three"].map(|text| (act("", "ls"), error(text))));
        assert_eq!(strikes(StuckRule::OpenHands024, &rounds), Some(4));
        assert_eq!(strikes(StuckRule::OpenHands024, &rounds[1..]), None);
    }

    #[test]
    fn three_equal_messages_are_a_monologue_unless_something_came_between() {
        let message = (turn("done", Action::Message), Seen::User);
        let rounds = vec![message.clone(); 3];
        assert_eq!(strikes(StuckRule::OpenHands024, &rounds), Some(3));
        let rounds = [message.clone(), message.clone(), (act("", "ls"), ran("ls", 0)), message];
        assert_eq!(strikes(StuckRule::OpenHands024, &rounds), None);
    }

    #[test]
    fn two_actions_that_alternate_for_six_rounds_are_a_loop() {
        let rounds: Vec<_> = (0..6)
            .map(|round| if round % 2 == 0 { "ls" } else { "pwd" })
            .map(|command| (act("", command), ran(command, 0)))
            .collect();
        assert_eq!(strikes(StuckRule::OpenHands024, &rounds), Some(6));
        assert_eq!(strikes(StuckRule::Paper3, &rounds), None);
    }

    #[test]
    fn invalid_outputs_repeat_only_where_their_text_is_known() {
        let known = turn("", Action::Invalid { text: "<function=x".into(), raw_missing: false });
        let rounds = vec![(known, Seen::Error("e".into())); 3];
        assert_eq!(strikes(StuckRule::Paper3, &rounds), Some(3));
        let unknown = turn("", Action::Invalid { text: String::new(), raw_missing: true });
        let rounds = vec![(unknown, Seen::Error("e".into())); 9];
        assert_eq!(strikes(StuckRule::Paper3, &rounds), None);
        assert_eq!(strikes(StuckRule::OpenHands024, &rounds), None);
    }
}
