//! Every Job that the plan builds, tried out on the server: the Job itself, and its pod in a namespace of the profile
//! `restricted`.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use kube::core::DynamicObject;
use sealign_crds::alignment_run::TrainerSpec;
use sealign_crds::model::Serving;
use sealign_crds::shared::{QueueSpec, SandboxSpec};
use sealign_manifest::group::RoundMap;
use sealign_manifest::key::Stage;
use sealign_manifest::train::{ModelSource, TrainStep};
use sealign_manifest::{Digest, ItemKey, ObjectKeys};
use sealign_plan::config::{BenchmarkReport, Report, Serve, WorkerConfig};
use sealign_plan::owner::Owner;
use sealign_plan::resources::sandbox::SandboxJob;
use sealign_plan::resources::worker::Program;
use sealign_plan::resources::{model_server, sandbox, trainer, worker};
use sealign_plan::{Installation, Kind};
use serde_json::json;

use crate::server::ApiServer;

fn owner() -> Owner {
    Owner {
        kind: Kind::AlignmentRun,
        namespace: "produced".into(),
        name: "run".into(),
        uid: "1a2b3c4d-0000-4000-8000-000000000001".into(),
        generation: Some(1),
        keys: ObjectKeys::new("produced/alignmentruns/run-1a2b3c4d"),
    }
}

fn sandbox_job(installation: &Installation, root: &str) -> DynamicObject {
    let items =
        (0..64_u64).map(|n| ItemKey::parse(Digest::of_bytes(&n.to_le_bytes()).short(32)).unwrap()).collect();
    let map = RoundMap { group: "g0001".into(), stage: Stage::Rollout, round: 0, barren: 0, items };
    let (sandbox, queue) = (SandboxSpec::default(), QueueSpec::default());
    let spec = SandboxJob {
        map: &map,
        image: "tasks/one:1",
        root,
        sandbox: &sandbox,
        queue: &queue,
        parallelism: 16,
        wall_seconds: 60,
    };
    sandbox::job(&owner(), installation, &spec).unwrap()
}

fn trusted_jobs(installation: &Installation) -> Vec<DynamicObject> {
    let report = WorkerConfig::Report(Report::Benchmark(BenchmarkReport {
        keys: ObjectKeys::new("a"),
        name: "b".into(),
        campaign: ObjectKeys::new("c"),
        task_keys: ObjectKeys::new("d"),
        baselines: Vec::new(),
    }));
    let queue = QueueSpec { name: Some("queue".into()), priority_class: None };
    let programs = [Program::Resolve, Program::Run, Program::BuildForest, Program::Report];
    let mut jobs: Vec<DynamicObject> = programs
        .into_iter()
        .map(|program| worker::job(&owner(), installation, program, &report, &queue, 0).unwrap())
        .collect();
    let step = TrainStep {
        keys: ObjectKeys::new("k"),
        name: "dpo-0".into(),
        model: ModelSource::Builtin("mini-base".into()),
        forest: "f".into(),
        settings: json!({}),
        round: 0,
    };
    let trainer = TrainerSpec { nodes: 2, gpus_per_node: 1, ..TrainerSpec::default() };
    jobs.push(trainer::job(&owner(), installation, &step, &trainer, &queue).unwrap());
    let serve = Serve { model: ModelSource::Builtin("mini-base".into()), context_tokens: 4096, max_batch: 8 };
    let server = model_server::job(&owner(), installation, "m", &serve, &Serving::default(), &queue, 0);
    jobs.push(server.unwrap());
    jobs
}

/// The server admits every Job and, under `restricted`, every pod of theirs, but root in a user namespace.
pub async fn every_pod_passes_the_restricted_profile(server: &ApiServer) {
    let client = server.admin();
    crate::namespace(&client, "produced").await;
    let try_out = PostParams { dry_run: true, ..PostParams::default() };
    let jobs: Api<Job> = Api::namespaced(client.clone(), "produced");
    let pods: Api<Pod> = Api::namespaced(client.clone(), "produced");
    let installation = Installation {
        store_url: "s3://bucket".into(),
        store_secret: Some("store".into()),
        ..Installation::default()
    };
    let mut all = trusted_jobs(&installation);
    all.push(sandbox_job(&installation, "/repo"));
    all.push(sandbox_job(&Installation { user_namespaces: false, ..installation.clone() }, "/testbed"));
    for job in all {
        let job: Job = job.try_parse().unwrap();
        let name = job.metadata.name.clone().unwrap();
        let admitted = jobs.create(&try_out, &job).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(admitted.spec.as_ref().unwrap().backoff_limit_per_index, Some(0), "{name}");
        let refused = pods.create(&try_out, &pod_of(job)).await.err();
        assert!(refused.is_none(), "{name}: {}", refused.unwrap());
    }
    // Root of a user namespace is the one exception of the sandbox profile, and the admission policy of the chart holds it;
    // whether the profile itself knows of it is the server's own affair.
    let root: Job = sandbox_job(&installation, "/testbed").try_parse().unwrap();
    jobs.create(&try_out, &root).await.unwrap();
    match pods.create(&try_out, &pod_of(root)).await {
        Ok(_) => println!("        restricted admits root of a user namespace"),
        Err(error) => {
            let error = error.to_string();
            println!("        restricted refuses root of a user namespace: {error}");
            assert!(error.contains("runAsNonRoot") && !error.contains("capabilities"), "{error}");
        }
    }
}

fn pod_of(job: Job) -> Pod {
    let template = job.spec.unwrap().template;
    let mut metadata = template.metadata.unwrap_or_default();
    metadata.name = Some("pod".into());
    Pod { metadata, spec: template.spec, ..Pod::default() }
}
