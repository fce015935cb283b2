//! Exclusion of evaluation data (specs 5.2 step 1): what the benchmark tests must not be trained on.

use std::collections::BTreeSet;

use sealign_trajectory::{Action, Trajectory};

use crate::options::Exclusion;

pub(crate) struct Excluder<'a> {
    tasks: BTreeSet<String>,
    repositories: BTreeSet<String>,
    statements: Vec<&'a str>,
}

impl<'a> Excluder<'a> {
    pub(crate) fn new(exclusion: &'a Exclusion) -> Self {
        let lower = |names: &BTreeSet<String>| names.iter().map(|name| name.to_lowercase()).collect();
        let statements = exclusion.problem_statements.iter().map(String::as_str);
        Self {
            tasks: lower(&exclusion.tasks),
            repositories: lower(&exclusion.repositories),
            statements: statements.filter(|statement| !statement.trim().is_empty()).collect(),
        }
    }

    pub(crate) fn excludes(&self, trajectory: &Trajectory) -> bool {
        let task = trajectory.task.to_lowercase();
        self.tasks.contains(&task)
            || repository(&task).is_some_and(|repository| self.repositories.contains(&repository))
            || (!self.statements.is_empty() && texts(trajectory).any(|text| self.contains_statement(text)))
    }

    fn contains_statement(&self, text: &str) -> bool {
        self.statements.iter().any(|statement| text.contains(statement))
    }
}

/// Everything that was said in a rollout.
fn texts(trajectory: &Trajectory) -> impl Iterator<Item = &str> {
    let prompt = trajectory.prompt.iter().map(|message| message.content.as_str());
    let turns = trajectory.turns.iter().flat_map(|turn| {
        let invalid = match &turn.action {
            Action::Invalid { text, .. } => Some(text.as_str()),
            Action::Calls { .. } | Action::Message => None,
        };
        let observed = turn.observation.iter().flatten().map(|part| part.text.as_str());
        turn.raw.as_deref().into_iter().chain([turn.free_text.as_str()]).chain(invalid).chain(observed)
    });
    let opening = trajectory.first_observation.iter().flatten().map(|part| part.text.as_str());
    prompt.chain(opening).chain(turns)
}

/// The repository of a task id in the SWE-bench form `owner__name-number` or the SWE-smith form `owner__name.commit.x`.
pub fn repository(task: &str) -> Option<String> {
    let (owner, rest) = task.split_once("__")?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let by_number = rest.rsplit_once('-').filter(|(_, number)| is_number(number)).map(|(name, _)| name);
    let by_commit = || {
        rest.match_indices('.').map(|(at, _)| rest.split_at(at)).find_map(|(name, after)| {
            let commit = after.get(1..)?.split('.').next()?;
            (commit.len() == 8 && commit.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(name)
        })
    };
    by_number.or_else(by_commit).map(|name| format!("{owner}/{name}"))
}
