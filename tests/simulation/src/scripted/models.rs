//! Models that say the same words whatever they see.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use sealign_agent::Model;
use sealign_agent::scripted::ScriptedModel;
use sealign_manifest::Task;
use sealign_trajectory::{Message, Role};
use sealign_worker::runner::models::Models;
use sealign_worker::runner::outcome::Seen;

use super::FIX;

/// Names of the policies: one mends the task, one looks around and mends it, one leaves a patch that mends nothing, one leaves
/// nothing.
pub const POLICIES: [&str; 4] = ["fixes", "looks", "spoils", "idles"];

/// The models of a campaign.
#[derive(Clone, Copy, Debug)]
pub struct Scripts {
    /// Ways to mend a task, by seed: patches that are graded one by one. Who looks around first has another one, if there are two.
    pub ways: u32,
    /// One of so many seeds spoils; the others of that policy leave nothing.
    pub spoils: u32,
}

#[async_trait]
impl Models for Scripts {
    fn model(&self, policy: &str, _: &Task) -> Result<Arc<dyn Model>, String> {
        let (scripts, policy) = (*self, policy.to_owned());
        let next = move |messages: &[Message], seed: u32| {
            let said = messages.iter().filter(|message| message.role == Role::Assistant).count();
            scripts.words(&policy, seed).into_iter().nth(said).unwrap_or_default()
        };
        Ok(Arc::new(ScriptedModel::new(next)))
    }

    async fn check(&self, _: Seen) -> BTreeMap<String, Result<(), String>> {
        POLICIES.iter().map(|policy| ((*policy).to_owned(), Ok(()))).collect()
    }
}

impl Scripts {
    fn words(self, policy: &str, seed: u32) -> Vec<String> {
        let create = |path: &str, text: u32| {
            format!(
                "<function=str_replace_editor>\n<parameter=command>create</parameter>\n<parameter=path>{path}</parameter>\n\
                 <parameter=file_text>\nx = {text}\n</parameter>\n</function>"
            )
        };
        let look = "<function=execute_bash>\n<parameter=command>ls</parameter>\n</function>".to_owned();
        let finish = "<function=finish>\n</function>".to_owned();
        let own_way = if self.ways == 1 { 0 } else { self.ways };
        match policy {
            "fixes" => vec![create(FIX, seed % self.ways), finish],
            "looks" => vec![look, create(FIX, own_way), finish],
            "spoils" if seed.is_multiple_of(self.spoils) => vec![create("other", seed % self.ways), finish],
            _ => vec![finish],
        }
    }
}
