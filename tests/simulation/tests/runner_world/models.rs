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

/// Policies of the campaign: one mends the task in one of three ways, one looks around and mends it, one leaves a patch that
/// mends nothing, one leaves nothing.
pub const POLICIES: [&str; 4] = ["fixes", "looks", "spoils", "idles"];
/// Ways to mend a task: patches that are graded one by one.
const WAYS: u32 = 3;

pub struct Scripts;

#[async_trait]
impl Models for Scripts {
    fn model(&self, policy: &str, _: &Task) -> Result<Arc<dyn Model>, String> {
        let policy = policy.to_owned();
        let next = move |messages: &[Message], seed: u32| {
            let said = messages.iter().filter(|message| message.role == Role::Assistant).count();
            words(&policy, seed).into_iter().nth(said).unwrap_or_default()
        };
        Ok(Arc::new(ScriptedModel::new(next)))
    }

    async fn check(&self, _: Seen) -> BTreeMap<String, Result<(), String>> {
        POLICIES.iter().map(|policy| ((*policy).to_owned(), Ok(()))).collect()
    }
}

fn words(policy: &str, seed: u32) -> Vec<String> {
    let create = |path: &str, text: u32| {
        format!(
            "<function=str_replace_editor>\n<parameter=command>create</parameter>\n<parameter=path>{path}</parameter>\n\
             <parameter=file_text>\nx = {text}\n</parameter>\n</function>"
        )
    };
    let look = "<function=execute_bash>\n<parameter=command>ls</parameter>\n</function>".to_owned();
    let finish = "<function=finish>\n</function>".to_owned();
    match policy {
        "fixes" => vec![create("fixed", seed % WAYS), finish],
        "looks" => vec![look, create("fixed", WAYS), finish],
        "spoils" => vec![create("other", seed % WAYS), finish],
        _ => vec![finish],
    }
}
