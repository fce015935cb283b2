//! The models of a campaign's policies: where they are, and whether they answer.
//!
//! Three kinds (DESIGN 2): an endpoint that somebody runs, a checkpoint that the campaign's own server pods serve (found
//! through the pod directory), and scripted policies, which are no language models and know the task's truth.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use sealign_agent::openai::{Endpoint, OpenAi};
use sealign_agent::scripted::ScriptedModel;
use sealign_agent::{CompletionRequest, Model, ModelError};
use sealign_crds::model::{ModelSpec, Scripted};
use sealign_crds::rollout_campaign::Policy;
use sealign_manifest::Task;
use sealign_tasks::suites::mini::teacher::{PolicyParams, Teacher};
use sealign_trajectory::Message;

use super::context::positive;
use super::outcome::Seen;
use super::pods::{Phase, Pod, PodRole};
use crate::error::WorkerError;

/// Requests in flight to one of our own servers at most; it decodes fewer together and queues the rest.
const SERVED_IN_FLIGHT: usize = 64;
/// Time for a question whether a model answers.
const CHECK_PATIENCE: Duration = Duration::from_secs(10);

/// Finds models.
#[async_trait]
pub trait Models: Send + Sync {
    /// The model of a policy for one attempt at `task`; scripted policies know the task's truth. An error is a line for
    /// people, and the try fails with cause `Model`.
    fn model(&self, policy: &str, task: &Task) -> Result<Arc<dyn Model>, String>;

    /// Asks every policy's model whether it answers, given the pods that are there; a line for people where not.
    async fn check(&self, pods: Seen) -> BTreeMap<String, Result<(), String>>;
}

/// The models of a campaign's spec.
pub struct CampaignModels {
    policies: BTreeMap<String, Kind>,
}

enum Kind {
    Endpoint(Arc<OpenAi>),
    /// The servers that answered last, by pod UID.
    Served(Mutex<BTreeMap<String, Arc<OpenAi>>>),
    Scripted(PolicyParams),
}

impl CampaignModels {
    /// The models of `policies`; `key_file` says where the API key of the policy of this ordinal lies, where it has one.
    ///
    /// # Errors
    /// [`WorkerError::Rejected`] for endpoints and scripted policies that cannot be.
    pub fn new(
        policies: &[Policy],
        key_file: impl Fn(usize) -> Option<PathBuf>,
    ) -> Result<Self, WorkerError> {
        let mut kinds = BTreeMap::new();
        for (ordinal, policy) in policies.iter().enumerate() {
            let kind = kind(&policy.name, &policy.model, key_file(ordinal))?;
            kinds.insert(policy.name.clone(), kind);
        }
        Ok(Self { policies: kinds })
    }
}

fn kind(policy: &str, model: &ModelSpec, api_key_file: Option<PathBuf>) -> Result<Kind, WorkerError> {
    let refuse = |problem: String| WorkerError::rejected(format!("policies[{policy}].model: {problem}"));
    if let Some(scripted) = &model.scripted {
        return Ok(Kind::Scripted(scripted_params(scripted).map_err(refuse)?));
    }
    if let Some(endpoint) = &model.endpoint {
        let endpoint = Endpoint {
            api_key_file,
            in_flight_max: usize::try_from(positive(endpoint.max_in_flight)).unwrap_or(1),
            ..Endpoint::new(endpoint.url.clone(), endpoint.model.clone())
        };
        return match OpenAi::new(endpoint) {
            Ok(client) => Ok(Kind::Endpoint(Arc::new(client))),
            Err(error) => Err(refuse(error.to_string())),
        };
    }
    match &model.checkpoint {
        Some(_) => Ok(Kind::Served(Mutex::default())),
        None => Err(refuse("set exactly one of endpoint, checkpoint and scripted".into())),
    }
}

/// The probabilities of a scripted policy.
///
/// # Errors
/// A line that names the field and what may stand there.
pub fn scripted_params(scripted: &Scripted) -> Result<PolicyParams, String> {
    /// Chance to run the tests first where a guessing policy says nothing else (tiny-loop recipe, part 2 B).
    const LOOK_FIRST: f64 = 0.17;
    let mut params = match scripted.policy.as_str() {
        "guessing" => PolicyParams::guessing(LOOK_FIRST),
        name => PolicyParams::named(name).ok_or_else(|| {
            format!(
                "scripted.policy `{name}` is not known; use {} or guessing",
                PolicyParams::NAMES.join(", ")
            )
        })?,
    };
    for (name, value) in &scripted.parameters {
        let chance = value.to_f64();
        if !(0.0..=1.0).contains(&chance) {
            return Err(format!("scripted.parameters.{name} is {value}; give a chance from 0 to 1"));
        }
        let field = match name.as_str() {
            "repeat" => &mut params.repeat,
            "earlyFinish" => &mut params.early_finish,
            "invalid" => &mut params.invalid,
            "wrongFile" => &mut params.wrong_file,
            "lookFirst" => &mut params.test_before,
            "testAfter" => &mut params.test_after,
            "skill" => &mut params.skill,
            "wrongLine" => &mut params.wrong_line,
            "miscopy" => &mut params.miscopy,
            other => {
                return Err(format!(
                    "scripted.parameters.{other} is not known; use repeat, earlyFinish, invalid, wrongFile, \
                     lookFirst, testAfter, skill, wrongLine or miscopy"
                ));
            }
        };
        *field = chance;
    }
    Ok(params)
}

#[async_trait]
impl Models for CampaignModels {
    fn model(&self, policy: &str, task: &Task) -> Result<Arc<dyn Model>, String> {
        match self.policies.get(policy) {
            None => Err(format!("the campaign has no policy `{policy}`")),
            Some(Kind::Endpoint(client)) => Ok(client.clone()),
            Some(Kind::Served(servers)) => {
                let servers = servers.lock().unwrap_or_else(PoisonError::into_inner);
                if servers.is_empty() {
                    return Err("no server of its checkpoint answers".into());
                }
                Ok(Arc::new(Replicas { servers: servers.values().cloned().collect() }))
            }
            Some(Kind::Scripted(params)) => {
                Teacher::new(task, *params, 0).map_err(|error| error.to_string())?;
                let (task, params) = (task.clone(), *params);
                let policy = move |messages: &[Message], seed: u32| {
                    // It was possible a moment ago with the same task.
                    Teacher::new(&task, params, seed).map_or_else(|_| String::new(), |t| t.next(messages))
                };
                Ok(Arc::new(ScriptedModel::new(policy)))
            }
        }
    }

    async fn check(&self, pods: Seen) -> BTreeMap<String, Result<(), String>> {
        let mut answers = BTreeMap::new();
        for (policy, kind) in &self.policies {
            let answer = match kind {
                Kind::Scripted(_) => Ok(()),
                Kind::Endpoint(client) => client.ready().await.map_err(|error| error.to_string()),
                Kind::Served(servers) => check_servers(policy, servers, &pods).await,
            };
            answers.insert(policy.clone(), answer);
        }
        answers
    }
}

async fn check_servers(
    policy: &str,
    servers: &Mutex<BTreeMap<String, Arc<OpenAi>>>,
    pods: &[Arc<Pod>],
) -> Result<(), String> {
    let is_server = |pod: &&Arc<Pod>| {
        let is_ours = matches!(&pod.role, PodRole::Server { policy: served } if served == policy);
        is_ours && pod.phase == Phase::Running && !pod.address.is_empty()
    };
    let mut answering = BTreeMap::new();
    let mut silence = "its server has not started yet".to_owned();
    for pod in pods.iter().filter(is_server) {
        let known = servers.lock().unwrap_or_else(PoisonError::into_inner).get(&pod.uid).cloned();
        match connect(pod, known).await {
            Ok(client) => {
                answering.insert(pod.uid.clone(), client);
            }
            Err(reason) => silence = format!("its server {} does not answer: {reason}", pod.name),
        }
    }
    let is_answered = !answering.is_empty();
    *servers.lock().unwrap_or_else(PoisonError::into_inner) = answering;
    if is_answered { Ok(()) } else { Err(silence) }
}

async fn connect(pod: &Pod, known: Option<Arc<OpenAi>>) -> Result<Arc<OpenAi>, String> {
    let client = if let Some(client) = known {
        client
    } else {
        let base = base_url(&pod.address);
        let model = served_model(&base).await?;
        let endpoint = Endpoint { in_flight_max: SERVED_IN_FLIGHT, ..Endpoint::new(base, model) };
        Arc::new(OpenAi::new(endpoint).map_err(|error| error.to_string())?)
    };
    client.ready().await.map_err(|error| error.to_string())?;
    Ok(client)
}

/// The base URL of a server at `address`, which may lack scheme and version.
fn base_url(address: &str) -> String {
    let address = address.trim_end_matches('/');
    let with_scheme = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    if with_scheme.ends_with("/v1") { with_scheme } else { format!("{with_scheme}/v1") }
}

/// The name under which a server of one model serves it.
async fn served_model(base: &str) -> Result<String, String> {
    let failed = |error: reqwest::Error| error.without_url().to_string();
    let client = reqwest::Client::builder().no_proxy().timeout(CHECK_PATIENCE).build().map_err(failed)?;
    let answer = client.get(format!("{base}/models")).send().await.map_err(failed)?;
    let list: serde_json::Value = answer.error_for_status().map_err(failed)?.json().await.map_err(failed)?;
    let name = list.pointer("/data/0/id").and_then(serde_json::Value::as_str);
    name.map(str::to_owned).ok_or_else(|| "it lists no model".to_owned())
}

/// Servers of one checkpoint; attempts spread over them by their seed.
struct Replicas {
    servers: Vec<Arc<OpenAi>>,
}

#[async_trait]
impl Model for Replicas {
    async fn complete(
        &self,
        request: &CompletionRequest<'_>,
    ) -> Result<sealign_agent::Completion, ModelError> {
        let count = u32::try_from(self.servers.len()).unwrap_or(1).max(1);
        let index = usize::try_from(request.seed % count).unwrap_or(0);
        match self.servers.get(index) {
            Some(server) => server.complete(request).await,
            None => Err(ModelError::Unavailable { tries: 0, reason: "no server".into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealign_crds::Decimal;

    fn scripted(policy: &str, parameters: &[(&str, &str)]) -> Scripted {
        let decimal = |(name, value): &(&str, &str)| ((*name).to_owned(), Decimal::parse(value).unwrap());
        Scripted { policy: policy.into(), parameters: parameters.iter().map(decimal).collect() }
    }

    #[test]
    fn a_scripted_policy_takes_its_parameters() {
        let params = scripted_params(&scripted("guessing", &[("lookFirst", "0.5")])).unwrap();
        assert_eq!(params, PolicyParams::guessing(0.5));
    }

    #[test]
    fn unknown_policies_parameters_and_chances_are_refused_by_name() {
        for (policy, parameters, named) in [
            ("genius", &[][..], "scripted.policy `genius`"),
            ("strong", &[("luck", "0.5")][..], "scripted.parameters.luck"),
            ("strong", &[("skill", "1.5")][..], "scripted.parameters.skill is 1.5"),
        ] {
            let error = scripted_params(&scripted(policy, parameters)).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn a_servers_address_becomes_a_base_url() {
        assert_eq!(base_url("http://127.0.0.1:8000"), "http://127.0.0.1:8000/v1");
        assert_eq!(base_url("10.0.0.7:8000/"), "http://10.0.0.7:8000/v1");
        assert_eq!(base_url("http://x/v1"), "http://x/v1");
    }
}
