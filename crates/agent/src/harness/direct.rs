//! One completion and no tools: the model reads the faulty program and answers with a repaired one (specs 3.2, the
//! column "without framework").
//!
//! The answer is the first fenced code block, or the whole text where there is none. It becomes
//! [`Attempt::answer`](crate::run::Attempt::answer); putting it in place of the file is the worker's business.

use std::time::Duration;

use async_trait::async_trait;
use sealign_manifest::Task;
use sealign_trajectory::{Action, Message, Role};
use serde::{Deserialize, Serialize};

use super::template::{TemplateError, fill};
use super::{End, Harness, Reaction, Seen, Session};
use crate::environment::{Environment, EnvironmentError};
use crate::model::Completion;

/// Version of the fixed behaviour.
const VERSION: u32 = 1;

/// Which prompt the harness uses (specs 3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DirectVariant {
    /// The task's own text and its files.
    #[default]
    #[serde(rename = "direct")]
    Plain,
    /// The files, which hold the faulty function and its tests, and the ask to fix the function.
    #[serde(rename = "direct-tests")]
    FixFromTests,
    /// The documented faulty function without tests. Needs the text `docs` in the task's truth.
    #[serde(rename = "direct-docs")]
    FixFromDocs,
}

impl DirectVariant {
    /// The name used in manifests and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "direct",
            Self::FixFromTests => "direct-tests",
            Self::FixFromDocs => "direct-docs",
        }
    }
}

/// What the prompt is made of. Places: `{problem}` (the task's own text), `{files}` (the files of the task's environment,
/// one after the other), `{entry_point}` (the first test that has to pass; in HumanEvalFix the function's name) and, where
/// the task has it, `{docs}` (the faulty program with its documentation and without tests).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DirectTemplates {
    /// System message; none is sent when it is empty.
    pub system: String,
    /// User message.
    pub user: String,
}

impl DirectTemplates {
    /// The texts that come with a variant.
    pub fn of(variant: DirectVariant) -> Self {
        let user = match variant {
            DirectVariant::Plain => "{problem}\n\n```python\n{files}\n```",
            DirectVariant::FixFromTests => "```python\n{files}\n```\n\nFix bugs in {entry_point}.",
            DirectVariant::FixFromDocs => "```python\n{docs}\n```\n\nFix bugs in {entry_point}.",
        };
        let ask = "Answer with the whole corrected program in one Python code block.";
        Self { system: String::new(), user: format!("{user}\n\n{ask}") }
    }
}

/// The harness.
#[derive(Clone, Debug)]
pub struct Direct {
    variant: DirectVariant,
    templates: DirectTemplates,
}

impl Direct {
    /// The harness with a variant's own texts.
    pub fn new(variant: DirectVariant) -> Self {
        Self::with_templates(variant, DirectTemplates::of(variant))
    }

    /// The harness with other texts.
    pub fn with_templates(variant: DirectVariant, templates: DirectTemplates) -> Self {
        Self { variant, templates }
    }
}

impl Harness for Direct {
    fn name(&self) -> String {
        format!("{}/{VERSION}", self.variant.name())
    }

    fn needs_sandbox(&self) -> bool {
        false
    }

    fn prompt(&self, task: &Task) -> Result<Vec<Message>, TemplateError> {
        let contents: Vec<&str> = task.environment.files.iter().map(|file| file.content.trim_end()).collect();
        let files = contents.join("\n\n");
        let entry_point = task.tests.fail_to_pass.first().map_or("the program", String::as_str);
        let mut values = vec![
            ("problem", task.problem_statement.as_str()),
            ("files", files.as_str()),
            ("entry_point", entry_point),
        ];
        let docs = task.truth.as_ref().and_then(|truth| truth.get("docs")?.as_str());
        values.extend(docs.map(|docs| ("docs", docs.trim_end())));
        let user = fill("user", &self.templates.user, &values)?;
        let mut messages = vec![Message { role: Role::User, content: user }];
        if !self.templates.system.is_empty() {
            let content = fill("system", &self.templates.system, &values)?;
            messages.insert(0, Message { role: Role::System, content });
        }
        Ok(messages)
    }

    fn stop(&self) -> &[String] {
        &[]
    }

    fn session(&self, _task: &Task) -> Box<dyn Session> {
        Box::new(DirectSession)
    }
}

struct DirectSession;

#[async_trait]
impl Session for DirectSession {
    async fn react(
        &mut self,
        completion: &Completion,
        _environment: &mut dyn Environment,
        _command_time: Duration,
    ) -> Result<Reaction, EnvironmentError> {
        let raw = completion.text.clone();
        Ok(Reaction {
            free_text: raw.replace("\r\n", "\n").trim().to_owned(),
            end: Some(End::Finished(Some(answer(&raw)))),
            raw,
            action: Action::Message,
            observation: None,
            seen: Seen::Nothing,
        })
    }
}

/// The program in an answer: the content of the first fenced block, to the end of the text where its closing fence is
/// missing, or the whole text where no fence is. Ends with one newline unless it is empty.
pub fn answer(text: &str) -> String {
    let text = text.replace("\r\n", "\n");
    let mut lines = text.lines();
    let program: Vec<&str> = if lines.by_ref().any(|line| line.trim_start().starts_with("```")) {
        lines.take_while(|line| !line.trim_start().starts_with("```")).collect()
    } else {
        text.lines().collect()
    };
    let program = program.join("\n");
    let program = program.trim_end();
    if program.trim().is_empty() { String::new() } else { format!("{program}\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fenced_block_is_the_answer() {
        assert_eq!(answer("Here:\n```python\nx = 1\n\n```\nand\n```\ny\n```"), "x = 1\n");
    }

    #[test]
    fn an_answer_without_a_closing_fence_or_any_fence_is_taken_whole() {
        assert_eq!(answer("```python\nx = 1"), "x = 1\n");
        assert_eq!(answer("x = 1\n"), "x = 1\n");
        assert_eq!(answer(" \n"), "");
        assert_eq!(answer("```"), "");
    }
}
