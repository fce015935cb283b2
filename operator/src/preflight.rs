//! What is checked before work is started on a cluster that could not do it: the store at the start, and for every Job its
//! RuntimeClass and the namespace's quota. What is refused is told in the object's conditions, with the remedy.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PodSpec, ResourceQuota};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::ListParams;
use kube::core::DynamicObject;
use kube::{Api, Client};
use sealign_reconcile::port::ClusterError;
use sealign_storage::{ArtifactStore, CreateOutcome, StoreError};

use crate::cluster::{bounded, meaning};

/// Time for which what was found is believed.
const MEMORY: Duration = Duration::from_secs(30);
/// Answers that are remembered.
const REMEMBERED_MAX: usize = 10_000;
/// Quotas of one namespace at most.
const QUOTAS_MAX: u32 = 100;
/// Where the store is tried out; one object, however often.
const PROBE: &str = "probe/create-only.txt";

/// Why a store cannot be worked with.
#[derive(Debug, thiserror::Error)]
pub enum StoreProblem {
    /// It cannot be written.
    #[error("the store cannot be written: check its URL and credentials")]
    Unwritable(#[source] StoreError),
    /// It overwrites where it was told to create: two workers could both believe that their record counts.
    #[error(
        "the store overwrites objects where it was told to create them: use one with conditional writes (If-None-Match)"
    )]
    Overwrites,
}

/// Writes to the store and sees that it creates what is new and only that.
///
/// # Errors
/// [`StoreProblem`].
pub async fn store(store: &dyn ArtifactStore) -> Result<(), StoreProblem> {
    let create = || store.create(PROBE, bytes::Bytes::from_static(b"sealign\n"));
    create().await.map_err(StoreProblem::Unwritable)?;
    match create().await.map_err(StoreProblem::Unwritable)? {
        CreateOutcome::AlreadyExists => Ok(()),
        CreateOutcome::Created => Err(StoreProblem::Overwrites),
    }
}

/// A question and when it was answered without objection.
type Passed = BTreeMap<(String, String), Instant>;

/// Checks Jobs before they are created.
#[derive(Default)]
pub struct Preflight {
    passed: Mutex<Passed>,
}

impl Preflight {
    /// Whether the cluster could run the pods of `job` in `namespace` at all.
    ///
    /// # Errors
    /// [`ClusterError::Invalid`] with what is missing and the remedy; what the API server says where it cannot be asked.
    pub async fn job(
        &self,
        client: &Client,
        namespace: &str,
        job: &DynamicObject,
    ) -> Result<(), ClusterError> {
        let Some(pod) = pod_of(job) else { return Ok(()) };
        if let Some(class) = &pod.runtime_class_name
            && !self.has_passed("", class)
        {
            tolerated(runtime_class(client, class).await)?;
            self.pass("", class);
        }
        let size = format!("{:?}", requests(&pod));
        if !self.has_passed(namespace, &size) {
            tolerated(quota(client, namespace, &pod).await)?;
            self.pass(namespace, &size);
        }
        Ok(())
    }

    fn has_passed(&self, scope: &str, what: &str) -> bool {
        let passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        passed.get(&(scope.to_owned(), what.to_owned())).is_some_and(|at| at.elapsed() < MEMORY)
    }

    fn pass(&self, scope: &str, what: &str) {
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        if passed.len() >= REMEMBERED_MAX {
            passed.clear();
        }
        passed.insert((scope.to_owned(), what.to_owned()), Instant::now());
    }
}

/// A check that we may not make is none: the pods will say what is wrong, later.
fn tolerated(checked: Result<(), ClusterError>) -> Result<(), ClusterError> {
    match checked {
        Err(ClusterError::Forbidden(message)) => {
            tracing::warn!(%message, "a check before a Job is left out: our role does not allow it");
            Ok(())
        }
        other => other,
    }
}

fn pod_of(job: &DynamicObject) -> Option<PodSpec> {
    job.clone().try_parse::<Job>().ok()?.spec?.template.spec
}

async fn runtime_class(client: &Client, class: &str) -> Result<(), ClusterError> {
    let api: Api<RuntimeClass> = Api::all(client.clone());
    match bounded(class, api.get_opt(class)).await? {
        Some(_) => Ok(()),
        None => Err(ClusterError::Invalid(format!(
            "RuntimeClass `{class}` does not exist in the cluster: create it, or name another in \
             spec.sandbox.runtimeClassName or in the chart's value for it"
        ))),
    }
}

async fn quota(client: &Client, namespace: &str, pod: &PodSpec) -> Result<(), ClusterError> {
    let api: Api<ResourceQuota> = Api::namespaced(client.clone(), namespace);
    let parameters = ListParams::default().limit(QUOTAS_MAX);
    let quotas = match tokio::time::timeout(crate::cluster::REQUEST_TIMEOUT, api.list(&parameters)).await {
        Ok(Ok(quotas)) => quotas.items,
        Ok(Err(error)) => return Err(meaning(namespace, error)),
        Err(_) => return Err(ClusterError::Unavailable("quotas were not listed in time".into())),
    };
    for quota in &quotas {
        if let Some(problem) = never_fits(pod, quota) {
            let name = quota.metadata.name.as_deref().unwrap_or_default();
            return Err(ClusterError::Invalid(format!("ResourceQuota `{name}`: {problem}")));
        }
    }
    Ok(())
}

/// Why one pod alone is more than the quota will ever allow; what is merely in use now is waited for.
fn never_fits(pod: &PodSpec, quota: &ResourceQuota) -> Option<String> {
    let hard = quota.spec.as_ref()?.hard.as_ref()?;
    let (requests, limits) = (requests(pod), limits(pod));
    hard.iter().find_map(|(key, allowed)| {
        let asked = match key.strip_prefix("limits.") {
            Some(resource) => limits.get(resource)?,
            None => requests.get(key.strip_prefix("requests.").unwrap_or(key))?,
        };
        let (asked, allowed) = (*asked, milli(allowed)?);
        (asked > allowed).then(|| {
            format!(
                "one pod alone asks for {} of {key} and {} are allowed: raise the quota or ask for less in the spec",
                shown(asked),
                shown(allowed)
            )
        })
    })
}

fn requests(pod: &PodSpec) -> BTreeMap<String, i128> {
    amounts(pod, |resources| resources.requests.as_ref())
}

fn limits(pod: &PodSpec) -> BTreeMap<String, i128> {
    amounts(pod, |resources| resources.limits.as_ref())
}

/// Thousandths of each resource that the containers of a pod name together; init containers of ours ask for no more.
fn amounts(
    pod: &PodSpec,
    read: impl Fn(&k8s_openapi::api::core::v1::ResourceRequirements) -> Option<&BTreeMap<String, Quantity>>,
) -> BTreeMap<String, i128> {
    let mut sums = BTreeMap::new();
    for (name, quantity) in
        pod.containers.iter().filter_map(|container| read(container.resources.as_ref()?)).flatten()
    {
        *sums.entry(name.clone()).or_default() += milli(quantity).unwrap_or_default();
    }
    sums
}

/// A quantity in thousandths, rounded down; `None` for what is none.
fn milli(quantity: &Quantity) -> Option<i128> {
    const SUFFIXES: [(&str, i128); 13] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("Pi", 1 << 50),
        ("Ei", 1 << 60),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("P", 1_000_000_000_000_000),
        ("E", 1_000_000_000_000_000_000),
        ("", 1),
    ];
    let text = quantity.0.trim();
    if let Some(number) = text.strip_suffix('m') {
        return number.parse().ok();
    }
    let (number, scale) =
        SUFFIXES.iter().find_map(|(suffix, scale)| Some((text.strip_suffix(suffix)?, *scale)))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    // Three digits are all that thousandths can hold of a fraction of one; larger units keep them in proportion.
    let thousandths: String = fraction.chars().chain("000".chars()).take(3).collect();
    let value = whole.parse::<i128>().ok()?.checked_mul(1_000)?.checked_add(thousandths.parse().ok()?)?;
    value.checked_mul(scale)
}

fn shown(thousandths: i128) -> String {
    if thousandths % 1_000 == 0 { (thousandths / 1_000).to_string() } else { format!("{thousandths}m") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealign_storage::Store;
    use serde_json::json;

    fn quantity(text: &str) -> Option<i128> {
        milli(&Quantity(text.into()))
    }

    #[test]
    fn quantities_are_read_in_thousandths() {
        assert_eq!(quantity("250m"), Some(250));
        assert_eq!(quantity("2"), Some(2_000));
        assert_eq!(quantity("1.5"), Some(1_500));
        assert_eq!(quantity("64Mi"), Some(64 * (1 << 20) * 1_000));
        assert_eq!(quantity("1.5Gi"), Some(1_500 * (1 << 30)));
        assert_eq!(quantity("1k"), Some(1_000_000));
        assert_eq!(quantity("much"), None);
    }

    #[test]
    fn a_pod_that_no_quota_will_ever_admit_is_named_with_the_remedy() {
        let pod: PodSpec = serde_json::from_value(json!({ "containers": [{ "name": "main", "resources":
            { "requests": { "cpu": "2", "memory": "1Gi" }, "limits": { "cpu": "2", "memory": "1Gi" } } }] }))
        .unwrap();
        let quota = |hard: serde_json::Value| -> ResourceQuota {
            serde_json::from_value(json!({ "metadata": { "name": "q" }, "spec": { "hard": hard } })).unwrap()
        };
        let problem = never_fits(&pod, &quota(json!({ "requests.cpu": "1500m", "pods": "10" }))).unwrap();
        assert!(problem.contains("asks for 2 of requests.cpu and 1500m are allowed: raise"), "{problem}");
        assert!(never_fits(&pod, &quota(json!({ "limits.memory": "512Mi" }))).is_some());
        assert_eq!(never_fits(&pod, &quota(json!({ "cpu": "4", "memory": "8Gi", "pods": "0" }))), None);
    }

    #[tokio::test]
    async fn a_store_that_creates_only_what_is_new_passes_however_often() {
        let memory = Store::memory();
        for _ in 0..2 {
            store(&memory).await.unwrap();
        }
    }
}
