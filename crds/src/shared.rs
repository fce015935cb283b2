//! Shapes that several kinds share.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Names an object of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalRef {
    /// Name of the object.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
}

/// An object as lineage and workers name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// Kind, for example `RolloutCampaign`.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID: another object of the same name is another object.
    pub uid: String,
}

/// Names one key of a Secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Key within it.
    #[serde(default = "default_secret_key")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub key: String,
}

fn default_secret_key() -> String {
    "api-key".into()
}

/// Where an object's artifacts go, below the root that the installation allows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.path) || !self.path.split('/').exists(p, p == '..' || p == '.' || p == '')")
    .message("artifacts.path must be relative, without empty parts, `.` or `..`"))]
pub struct Artifacts {
    /// Folder below the allowed root; the namespace by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200), regex(pattern = r"^[A-Za-z0-9._/-]+$"))]
    pub path: Option<String>,
}

/// How an attempt ends when it does not end by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Model turns of one attempt.
    #[serde(default = "default_turns")]
    #[schemars(range(min = 1, max = 1000))]
    pub turns: i32,
    /// Tokens that the conversation may hold; the attempt ends when the next prompt would not fit.
    #[serde(default = "default_context_tokens")]
    #[schemars(range(min = 64, max = 4_194_304))]
    pub context_tokens: i32,
    /// Tokens that one model turn may have.
    #[serde(default = "default_turn_tokens")]
    #[schemars(range(min = 1, max = 262_144))]
    pub turn_tokens: i32,
    /// Wall seconds of one attempt, without the time that the model server was unreachable, loading or throttling.
    #[serde(default = "default_wall_seconds")]
    #[schemars(range(min = 1, max = 86_400))]
    pub wall_seconds: i32,
    /// Wall seconds of one command of the agent.
    #[serde(default = "default_command_seconds")]
    #[schemars(range(min = 1, max = 7_200))]
    pub command_seconds: i32,
    /// Prompt and completion tokens that one attempt may cost over all its requests; also what a try with unknown tokens is
    /// charged to the budget.
    #[serde(default = "default_attempt_tokens")]
    #[schemars(range(min = 1))]
    pub tokens: i64,
}

impl Default for Limits {
    /// The paper's 30 turns and 32k tokens of context.
    fn default() -> Self {
        Self {
            turns: default_turns(),
            context_tokens: default_context_tokens(),
            turn_tokens: default_turn_tokens(),
            wall_seconds: default_wall_seconds(),
            command_seconds: default_command_seconds(),
            tokens: default_attempt_tokens(),
        }
    }
}

fn default_turns() -> i32 {
    30
}
fn default_context_tokens() -> i32 {
    32_768
}
fn default_turn_tokens() -> i32 {
    4_096
}
fn default_wall_seconds() -> i32 {
    3_600
}
fn default_command_seconds() -> i32 {
    300
}
fn default_attempt_tokens() -> i64 {
    2_000_000
}

/// What a sandbox may use, and how it is isolated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxSpec {
    /// CPU in thousandths of a core: request and limit.
    #[serde(default = "default_cpu_millis")]
    #[schemars(range(min = 10, max = 128_000))]
    pub cpu_millis: i32,
    /// Memory in MiB: request and limit.
    #[serde(default = "default_memory_mib")]
    #[schemars(range(min = 16, max = 1_048_576))]
    pub memory_mib: i32,
    /// Scratch space in MiB: request and limit.
    #[serde(default = "default_disk_mib")]
    #[schemars(range(min = 1, max = 4_194_304))]
    pub disk_mib: i32,
    /// Processes and threads.
    #[serde(default = "default_processes")]
    #[schemars(range(min = 8, max = 32_768))]
    pub processes: i32,
    /// RuntimeClass of sandbox pods, for example `gvisor`; the installation's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub runtime_class_name: Option<String>,
    /// Seconds that a pod may take to pull its image and start.
    #[serde(default = "default_start_seconds")]
    #[schemars(range(min = 5, max = 7_200))]
    pub start_seconds: i32,
}

impl Default for SandboxSpec {
    fn default() -> Self {
        Self {
            cpu_millis: default_cpu_millis(),
            memory_mib: default_memory_mib(),
            disk_mib: default_disk_mib(),
            processes: default_processes(),
            runtime_class_name: None,
            start_seconds: default_start_seconds(),
        }
    }
}

fn default_cpu_millis() -> i32 {
    1_000
}
fn default_memory_mib() -> i32 {
    2_048
}
fn default_disk_mib() -> i32 {
    8_192
}
fn default_processes() -> i32 {
    512
}
fn default_start_seconds() -> i32 {
    600
}

/// The scaffold around the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HarnessSpec {
    /// Which harness.
    #[serde(default)]
    pub name: HarnessName,
    /// Prompts and observation texts: `openhands-0.24`, `openhands-0.28` or `compact` (for models with little context);
    /// for `Direct`: `tests` or `docs`.
    #[serde(default = "default_profile")]
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z0-9.-]+$"))]
    pub profile: String,
    /// The rule that ends an attempt which loops.
    #[serde(default)]
    pub stop_rule: StopRule,
}

impl Default for HarnessSpec {
    fn default() -> Self {
        Self { name: HarnessName::default(), profile: default_profile(), stop_rule: StopRule::default() }
    }
}

fn default_profile() -> String {
    "openhands-0.24".into()
}

/// A harness that we speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HarnessName {
    /// The text call protocol of OpenHands with its shell, editor, think and finish tools.
    #[default]
    OpenHands,
    /// One completion without a sandbox.
    Direct,
}

/// The rule that ends an attempt which loops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StopRule {
    /// Three equal actions in a row, the paper's metric.
    #[default]
    Paper3,
    /// The runtime detector of OpenHands 0.24.
    OpenHands024,
    /// None.
    Off,
}

/// How failed tries are repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// Tries of one item that infrastructure may fail before the item is recorded as `Infra`. Causes that are nobody's doing
    /// (preemption, a lost node, a suspended campaign) do not count.
    #[serde(default = "default_infra_tries")]
    #[schemars(range(min = 1, max = 20))]
    pub infra_tries: i32,
    /// Rounds in a row without a new record before the group waits for help; raising it resumes.
    #[serde(default = "default_barren_rounds")]
    #[schemars(range(min = 1, max = 100))]
    pub max_rounds: i32,
}

impl Default for Retry {
    fn default() -> Self {
        Self { infra_tries: default_infra_tries(), max_rounds: default_barren_rounds() }
    }
}

fn default_infra_tries() -> i32 {
    3
}
fn default_barren_rounds() -> i32 {
    5
}

/// Labels that a queueing system reads on Jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueSpec {
    /// Kueue LocalQueue that Jobs are submitted to; they are created suspended then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: Option<String>,
    /// Kueue workload priority class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub priority_class: Option<String>,
}
