//! The Job of a trusted worker: resolver, runner, forest builder, report writer.

use kube::core::DynamicObject;
use sealign_crds::shared::QueueSpec;
use serde_json::{Value, json};

use super::pod::{self, Extent, JobIdentity};
use crate::config::{CONFIG_VARIABLE, POD_UID_VARIABLE, STORE_VARIABLE, WorkerConfig};
use crate::installation::Installation;
use crate::labels::Zone;
use crate::names;
use crate::owner::Owner;
use crate::snapshot::NoDecision;

/// Port on which a runner says whether it is ready.
pub const HEALTH_PORT: u16 = 8081;

/// A worker program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `sealign-worker resolve`.
    Resolve,
    /// `sealign-worker run`.
    Run,
    /// `sealign-worker build-forest`.
    BuildForest,
    /// `sealign-worker report`.
    Report,
}

/// What a trusted worker asks for: CPU in thousandths, memory and disk in MiB.
const WORKER_REQUESTS: (i32, i32, i32) = (250, 256, 256);
/// What it may use at most. A runner drives hundreds of sandboxes; a forest of 100,000 trajectories is streamed within these
/// bounds.
const WORKER_LIMITS: (i32, i32, i32) = (2_000, 2_048, 4_096);

impl Program {
    /// Name of the worker in keys, labels and rejections.
    pub fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Run => "run",
            Self::BuildForest => "build-forest",
            Self::Report => "report",
        }
    }

    fn zone(self) -> Zone {
        match self {
            Self::Resolve => Zone::Resolve,
            Self::Run => Zone::Runner,
            Self::BuildForest => Zone::Forest,
            Self::Report => Zone::Report,
        }
    }
}

/// Builds the Job of round `round`.
pub fn job(
    owner: &Owner,
    installation: &Installation,
    program: Program,
    config: &WorkerConfig,
    queue: &QueueSpec,
    round: u32,
) -> Result<DynamicObject, NoDecision> {
    let identity = JobIdentity {
        name: names::job(owner.kind, &owner.name, &owner.uid, program.name(), round),
        zone: program.zone(),
        stage: program.name().to_owned(),
        round,
        labels: Vec::new(),
        annotations: Vec::new(),
    };
    let extent = Extent {
        completions: 1,
        parallelism: 1,
        deadline_seconds: installation.worker_start_seconds + installation.worker_round_seconds,
        all_or_nothing: false,
    };
    let mut container = json!({
        "name": "main",
        "image": installation.worker_image,
        "command": ["sealign-worker", program.name()],
        "env": environment(installation, config, keys_of_policies(config))?,
        "resources": pod::bounded(WORKER_REQUESTS, WORKER_LIMITS, 0),
        "securityContext": pod::container_security(true),
        "volumeMounts": [{ "name": "tmp", "mountPath": "/tmp" }],
    });
    if program == Program::Run
        && let Some(fields) = container.as_object_mut()
    {
        let probe = json!({ "httpGet": { "path": "/readyz", "port": HEALTH_PORT }, "periodSeconds": 5 });
        fields.insert("readinessProbe".into(), probe);
        let port = json!([{ "name": "metrics", "containerPort": HEALTH_PORT }]);
        fields.insert("ports".into(), port);
    }
    let pod = trusted_pod(installation, program.zone(), &container, program == Program::Run);
    pod::job(owner, &identity, extent, queue, &pod)
}

/// The pod of a trusted program. Only a runner gets a token: it watches pods.
pub fn trusted_pod(installation: &Installation, zone: Zone, container: &Value, has_token: bool) -> Value {
    json!({
        "restartPolicy": "Never",
        "automountServiceAccountToken": has_token,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 60,
        "tolerations": pod::tolerations(),
        "serviceAccountName": format!("{}-{}", installation.service_account_prefix, zone.name()),
        "securityContext": pod::trusted_security(),
        "containers": [container],
        "volumes": [{ "name": "tmp", "emptyDir": {} }],
    })
}

/// Keys of the installation's storage Secret that count, each optional: credentials, and what an S3 server of one's own needs.
const STORE_SECRET_KEYS: [&str; 7] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ALLOW_HTTP",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
];

/// The environment of a trusted program: its configuration, the store, its pod, and further variables.
pub fn environment(
    installation: &Installation,
    config: &WorkerConfig,
    further: Vec<Value>,
) -> Result<Value, NoDecision> {
    let config = serde_json::to_string(config)
        .map_err(|source| NoDecision::Encode { what: "a worker configuration", source })?;
    let mut variables = vec![
        json!({ "name": CONFIG_VARIABLE, "value": config }),
        json!({ "name": POD_UID_VARIABLE, "valueFrom": { "fieldRef": { "fieldPath": "metadata.uid" } } }),
    ];
    if !installation.store_url.is_empty() {
        variables.push(json!({ "name": STORE_VARIABLE, "value": installation.store_url }));
    }
    if let Some(secret) = &installation.store_secret {
        variables.extend(STORE_SECRET_KEYS.map(|name| secret_variable(name, secret, name)));
    }
    variables.extend(further);
    Ok(Value::Array(variables))
}

/// The variables that hold the API keys of a campaign's endpoints, `SEALIGN_MODEL_KEY_<ordinal of the policy>`.
fn keys_of_policies(config: &WorkerConfig) -> Vec<Value> {
    let WorkerConfig::Run(run) = config else { return Vec::new() };
    let crate::config::Work::Campaign(spec) = &run.work else { return Vec::new() };
    let secrets = spec.policies.iter().enumerate().filter_map(|(ordinal, policy)| {
        let secret = policy.model.endpoint.as_ref()?.secret_ref.as_ref()?;
        Some(secret_variable(&format!("SEALIGN_MODEL_KEY_{ordinal}"), &secret.name, &secret.key))
    });
    secrets.collect()
}

fn secret_variable(name: &str, secret: &str, key: &str) -> Value {
    json!({ "name": name, "valueFrom": { "secretKeyRef": { "name": secret, "key": key, "optional": true } } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use crate::config::{BenchmarkReport, Report};
    use crate::resources::pod::tests::{owner, typed};
    use sealign_manifest::ObjectKeys;

    #[test]
    fn a_worker_finds_its_configuration_and_the_store_in_its_environment() {
        let config = WorkerConfig::Report(Report::Benchmark(BenchmarkReport {
            keys: ObjectKeys::new("a"),
            name: "bench".into(),
            campaign: ObjectKeys::new("b"),
            task_keys: ObjectKeys::new("c"),
            baselines: Vec::new(),
        }));
        let installation = Installation { store_url: "s3://bucket".into(), ..Installation::default() };
        let owner = owner(Kind::Benchmark);
        let job = job(&owner, &installation, Program::Report, &config, &QueueSpec::default(), 0).unwrap();
        let pod = typed(&job).spec.unwrap().template.spec.unwrap();
        let main = &pod.containers[0];
        assert_eq!(main.command.as_deref().unwrap(), ["sealign-worker", "report"]);
        let value = |name: &str| {
            main.env.iter().flatten().find(|v| v.name == name).and_then(|v| v.value.clone()).unwrap()
        };
        assert_eq!(serde_json::from_str::<WorkerConfig>(&value(CONFIG_VARIABLE)).unwrap(), config);
        assert_eq!(value(STORE_VARIABLE), "s3://bucket");
        assert_eq!(pod.automount_service_account_token, Some(false));
        assert_eq!(pod.security_context.unwrap().run_as_non_root, Some(true));
    }
}
