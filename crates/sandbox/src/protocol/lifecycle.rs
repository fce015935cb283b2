//! Claim, ping and finish: the life of a sandbox as its runner sees it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Takes the sandbox for one runner and one item. The server pins the first claim for good; the same claim again
/// (a lost reply) is answered the same way, any other is refused. The request is signed by the key it names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Claim {
    /// The runner's ed25519 public key, 64 lower-case hexadecimal digits.
    pub runner_public_key: String,
    /// The item that this sandbox serves, at most 256 bytes. The server only compares it.
    pub item: String,
    /// The pod the runner believes it talks to.
    pub pod_uid: String,
}

/// What the server tells about itself when claimed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimReply {
    /// The protocol's version, [`super::VERSION`].
    pub protocol: String,
    /// The task root, an absolute path inside the sandbox; commands start there.
    pub root: String,
    /// The shell that `exec` uses: a path ending in `bash`, or in `sh` where there is no bash.
    pub shell: String,
    /// What enforces the limits.
    pub means: LimitMeans,
    /// The limits in force by name (`memoryBytes`, `pids`, `diskBytes`, `fileBytes`, `openFiles`, `cpuSeconds`).
    pub limits: BTreeMap<String, u64>,
    /// Whether the server is PID 1 of its namespace; only then do task processes die with it and can't end it.
    pub is_pid_one: bool,
}

/// What enforces a sandbox's memory and process limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LimitMeans {
    /// A cgroup around the whole sandbox (the pod's, or a delegated one): exact, by the kernel.
    Cgroup,
    /// Limits of each process, and a watch in the server that sums memory and ends what passes the limit.
    Rlimits,
}

/// Says that the runner lives. Allowed while another request is at work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ping {}

/// The answer to a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PingReply {
    /// Whether another request is at work.
    pub is_busy: bool,
}

/// Ends the sandbox with exit code 0. The runner sends it only after its record is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Finish {}

/// Success without anything to tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Done {}
