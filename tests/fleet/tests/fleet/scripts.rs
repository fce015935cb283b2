//! Models that say the same words whatever they see: policies that mend a task, that look around before they do, that
//! now and then leave a patch which mends nothing, and that leave nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use sealign_agent::Model;
use sealign_agent::scripted::ScriptedModel;
use sealign_manifest::Task;
use sealign_trajectory::{Message, Role};
use sealign_worker::runner::models::Models;
use sealign_worker::runner::outcome::Seen;

/// Names of the policies.
pub const POLICIES: [&str; 4] = ["fixes", "looks", "spoils", "idles"];
/// File whose presence makes the tests pass.
pub const FIX: &str = "fixed";
/// One of so many seeds spoils: there is a grading that fails in every third group or so.
const SPOILS: u32 = 3;

/// The models of every campaign here.
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
    let create = |path: &str| {
        format!(
            "<function=str_replace_editor>\n<parameter=command>create</parameter>\n<parameter=path>{path}</parameter>\n\
             <parameter=file_text>\nx = 1\n</parameter>\n</function>"
        )
    };
    let look = "<function=execute_bash>\n<parameter=command>ls</parameter>\n</function>".to_owned();
    let finish = "<function=finish>\n</function>".to_owned();
    match policy {
        "fixes" => vec![create(FIX), finish],
        "looks" => vec![look, create(FIX), finish],
        "spoils" if seed.is_multiple_of(SPOILS) => vec![create("other"), finish],
        _ => vec![finish],
    }
}
