//! The model: one type wherever a model is named.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Decimal;
use crate::shared::SecretKeyRef;

/// A model: an endpoint that somebody runs, a checkpoint that the campaign serves, or a scripted policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.endpoint), has(self.checkpoint), has(self.scripted)].filter(x, x).size() == 1")
    .message("a model is exactly one of endpoint, checkpoint and scripted"))]
pub struct ModelSpec {
    /// An OpenAI-compatible server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    /// Weights in Hugging Face layout; the campaign starts a server for them and stops it after use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
    /// A seeded stochastic policy over a built-in suite: a teacher for demonstrations and tests, not a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scripted: Option<Scripted>,
}

/// An OpenAI-compatible server that somebody else runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Base URL up to and including the version, for example `http://models.demo.svc:8000/v1`.
    #[schemars(length(min = 8, max = 500), regex(pattern = r"^https?://"))]
    pub url: String,
    /// Model name as the server knows it.
    #[schemars(length(min = 1, max = 200))]
    pub model: String,
    /// API key, where the server wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,
    /// Requests in flight at most.
    #[serde(default = "default_in_flight")]
    #[schemars(range(min = 1, max = 4096))]
    pub max_in_flight: i32,
}

fn default_in_flight() -> i32 {
    64
}

/// Weights in Hugging Face layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// `builtin:NAME` (shipped with the programs), `artifact:KEY` (a model manifest in the store) or `dir:PATH` (a folder that
    /// every pod of the model can read).
    #[schemars(length(min = 5, max = 500), regex(pattern = r"^(builtin|artifact|dir):[A-Za-z0-9._/-]+$"))]
    pub base: String,
    /// A LoRA adapter over it, written the same way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 5, max = 500), regex(pattern = r"^(artifact|dir):[A-Za-z0-9._/-]+$"))]
    pub adapter: Option<String>,
    /// How it is served.
    #[serde(default)]
    pub serving: Serving,
}

/// How a checkpoint is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Serving {
    /// Which server program.
    #[serde(default)]
    pub engine: Engine,
    /// Servers.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = 64))]
    pub replicas: i32,
    /// GPUs of each server.
    #[serde(default)]
    #[schemars(range(min = 0, max = 16))]
    pub gpus: i32,
    /// Image of the server; the installation's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 500))]
    pub image: Option<String>,
    /// Further arguments of the server program.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 200)))]
    pub args: Vec<String>,
}

impl Default for Serving {
    fn default() -> Self {
        Self {
            engine: Engine::default(),
            replicas: default_replicas(),
            gpus: 0,
            image: None,
            args: Vec::new(),
        }
    }
}

fn default_replicas() -> i32 {
    1
}

/// A model server program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Engine {
    /// Our own server, for small models and for tests.
    #[default]
    Sealign,
    /// vLLM.
    Vllm,
}

/// A scripted policy of a built-in suite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scripted {
    /// Name of the policy: `strong`, `medium`, `weak`, `looper`, `quitter`, `blind` or `guessing`.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z0-9-]+$"))]
    pub policy: String,
    /// Its parameters, for example `lookFirst: "0.17"`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub parameters: BTreeMap<String, Decimal>,
}

/// How tokens are drawn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sampling {
    /// 0 is greedy.
    #[serde(default = "default_temperature")]
    pub temperature: Decimal,
    /// Nucleus mass.
    #[serde(default = "default_top_p")]
    pub top_p: Decimal,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: default_temperature(), top_p: default_top_p() }
    }
}

fn default_temperature() -> Decimal {
    Decimal::constant("0")
}
fn default_top_p() -> Decimal {
    Decimal::constant("1")
}
