//! The `Cluster` port over a Kubernetes API server.
//!
//! Reads go to the server, not to a cache, so a decision never rests on a list that is older than our own last write.
//! Nothing is retried here: a POST that was answered with 504 may have been applied, and the reconciler, which looks before it
//! writes again, is the one layer that repeats.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use sealign_plan::labels::{self, Zone};
use sealign_reconcile::port::{Cluster, ClusterError, Kind};
use serde_json::{Value, json};

use crate::preflight::Preflight;

/// Objects of one page of a list.
const PAGE: u32 = 500;
/// Pages of a list at most: 100,000 objects with one owner are not ours.
const PAGES_MAX: usize = 200;
/// Time that one request may take; well under the lease.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);

/// A Kubernetes cluster.
pub struct KubeCluster {
    client: Client,
    preflight: Preflight,
    /// Variables that every resolver gets beside what the plan tells it: what the installation says of suites.
    suites: BTreeMap<String, String>,
}

/// The resource that a kind is served as.
pub fn resource(kind: Kind) -> ApiResource {
    let (group, version) = kind.api_version().split_once('/').unwrap_or_default();
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind.name()), kind.plural())
}

/// What an error of the client means.
pub fn meaning(target: &str, error: kube::Error) -> ClusterError {
    let kube::Error::Api(status) = error else { return ClusterError::Unavailable(chain(&error)) };
    let target = target.to_owned();
    match (status.code, status.reason.as_str()) {
        (404, _) => ClusterError::NotFound(target),
        (409, "AlreadyExists") => ClusterError::AlreadyExists(target),
        (409, _) => ClusterError::Conflict(target),
        (400 | 413 | 422, _) => ClusterError::Invalid(status.message),
        (401 | 403, _) => ClusterError::Forbidden(status.message),
        (code, _) => ClusterError::Unavailable(format!("{code}: {}", status.message)),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    sealign_reconcile::error::chain(error)
}

impl KubeCluster {
    /// The cluster that `client` speaks to.
    pub fn new(client: Client) -> Self {
        Self { client, preflight: Preflight::default(), suites: BTreeMap::new() }
    }

    /// Gives these variables to every resolver.
    #[must_use]
    pub fn with_suites(mut self, suites: BTreeMap<String, String>) -> Self {
        self.suites = suites;
        self
    }

    fn api(&self, kind: Kind, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource(kind)),
            None => Api::all_with(self.client.clone(), &resource(kind)),
        }
    }
}

/// Runs one request within [`REQUEST_TIMEOUT`].
pub(crate) async fn bounded<T>(
    target: &str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ClusterError> {
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(answer) => answer.map_err(|error| meaning(target, error)),
        Err(_) => Err(ClusterError::Unavailable(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs()))),
    }
}

/// A resolver's Job with further variables; any other Job as it is.
fn with_variables(job: &DynamicObject, variables: &BTreeMap<String, String>) -> DynamicObject {
    let mut job = job.clone();
    let zone = job.metadata.labels.as_ref().and_then(|labels| labels.get(labels::ZONE));
    if zone.is_none_or(|zone| zone != Zone::Resolve.name()) {
        return job;
    }
    if let Some(Value::Array(environment)) = job.data.pointer_mut("/spec/template/spec/containers/0/env") {
        environment.extend(variables.iter().map(|(name, value)| json!({ "name": name, "value": value })));
    }
    job
}

#[async_trait]
impl Cluster for KubeCluster {
    async fn get(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<DynamicObject>, ClusterError> {
        bounded(name, self.api(kind, Some(namespace)).get_opt(name)).await
    }

    async fn list(
        &self,
        kind: Kind,
        namespace: Option<&str>,
        labels: &BTreeMap<String, String>,
    ) -> Result<Vec<DynamicObject>, ClusterError> {
        let selector =
            labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
        let api = self.api(kind, namespace);
        let mut parameters = ListParams::default().labels(&selector).limit(PAGE);
        let mut objects = Vec::new();
        for _ in 0..PAGES_MAX {
            let page = bounded(kind.plural(), api.list(&parameters)).await?;
            objects.extend(page.items);
            let Some(token) = page.metadata.continue_.filter(|token| !token.is_empty()) else {
                objects.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
                return Ok(objects);
            };
            parameters = parameters.continue_token(&token);
        }
        Err(ClusterError::Invalid(format!(
            "more than {PAGES_MAX} pages of {} with {selector}",
            kind.plural()
        )))
    }

    async fn create(&self, kind: Kind, object: &DynamicObject) -> Result<DynamicObject, ClusterError> {
        let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let parameters = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        if kind != Kind::Job {
            return bounded(name, self.api(kind, Some(namespace)).create(&parameters, object)).await;
        }
        self.preflight.job(&self.client, namespace, object).await?;
        let object = with_variables(object, &self.suites);
        bounded(name, self.api(kind, Some(namespace)).create(&parameters, &object)).await
    }

    async fn patch_status(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        version: &str,
        status: &Value,
    ) -> Result<DynamicObject, ClusterError> {
        // A merge patch would leave fields that we no longer set; a PUT of the subresource replaces the status and nothing
        // else, and names the version that it rests on.
        let mut object = DynamicObject::new(name, &resource(kind)).within(namespace);
        object.metadata.resource_version = Some(version.to_owned());
        object.data = json!({ "status": status });
        let parameters = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        bounded(name, self.api(kind, Some(namespace)).replace_status(name, &parameters, &object)).await
    }

    async fn patch_metadata(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        metadata: &Value,
    ) -> Result<DynamicObject, ClusterError> {
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        let parameters = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        bounded(name, self.api(kind, Some(namespace)).patch(name, &parameters, &patch)).await
    }

    async fn delete(&self, kind: Kind, namespace: &str, name: &str, uid: &str) -> Result<(), ClusterError> {
        let only_this = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let parameters = DeleteParams::background().preconditions(only_this);
        match bounded(name, self.api(kind, Some(namespace)).delete(name, &parameters)).await {
            // Gone, or another object of the same name: this one is gone either way.
            Ok(_) | Err(ClusterError::NotFound(_) | ClusterError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn changed(&self, limit: Duration) {
        // Controllers have their own watches; nobody waits here but tests.
        tokio::time::sleep(limit).await;
    }
}

/// Field manager of everything that we write.
const MANAGER: &str = "sealign-operator";

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use super::*;
    use futures::future::BoxFuture;
    use kube::client::Body;
    use kube::core::Status;

    fn api_error(code: u16, reason: &str) -> kube::Error {
        kube::Error::Api(Box::new(Status {
            code,
            reason: reason.into(),
            message: "spec.x: wrong".into(),
            ..Status::default()
        }))
    }

    #[test]
    fn kinds_are_served_where_their_definitions_say() {
        let campaign = resource(Kind::RolloutCampaign);
        assert_eq!(
            (campaign.api_version.as_str(), campaign.plural.as_str()),
            ("sealign.dev/v1alpha1", "rolloutcampaigns")
        );
        assert_eq!(resource(Kind::Job).api_version, "batch/v1");
        for definition in sealign_crds::generate::definitions() {
            let kind = Kind::parse(&definition.spec.names.kind).unwrap();
            assert_eq!(kind.plural(), definition.spec.names.plural);
        }
    }

    #[test]
    fn only_resolvers_are_told_of_suites() {
        let job = |zone: &str| -> DynamicObject {
            serde_json::from_value(json!({
                "metadata": { "name": "j", "labels": { "sealign.dev/zone": zone } },
                "spec": { "template": { "spec": { "containers": [{ "name": "main", "env": [] }] } } },
            }))
            .unwrap()
        };
        let variables = BTreeMap::from([("SEALIGN_PYTHON_IMAGE".to_owned(), "python:x".to_owned())]);
        let environment = |zone: &str| {
            let job = with_variables(&job(zone), &variables);
            job.data.pointer("/spec/template/spec/containers/0/env").cloned().unwrap()
        };
        assert_eq!(environment("resolve"), json!([{ "name": "SEALIGN_PYTHON_IMAGE", "value": "python:x" }]));
        assert_eq!(environment("sandbox"), json!([]));
    }

    #[test]
    fn answers_of_the_server_keep_their_meaning() {
        assert!(matches!(meaning("x", api_error(404, "NotFound")), ClusterError::NotFound(_)));
        assert!(matches!(meaning("x", api_error(409, "AlreadyExists")), ClusterError::AlreadyExists(_)));
        assert!(matches!(meaning("x", api_error(409, "Conflict")), ClusterError::Conflict(_)));
        assert!(
            matches!(meaning("x", api_error(422, "Invalid")), ClusterError::Invalid(m) if m.contains("spec.x"))
        );
        assert!(matches!(meaning("x", api_error(403, "Forbidden")), ClusterError::Forbidden(_)));
        for code in [429, 500, 503, 504] {
            assert!(matches!(meaning("x", api_error(code, "")), ClusterError::Unavailable(_)), "{code}");
        }
    }

    /// An API server that notes what it is asked and gives prepared answers.
    #[derive(Clone)]
    struct Prepared {
        answers: Arc<Mutex<VecDeque<(u16, Value)>>>,
        asked: Arc<Mutex<Vec<(String, Value)>>>,
    }

    impl tower::Service<http::Request<Body>> for Prepared {
        type Response = http::Response<Body>;
        type Error = kube::Error;
        type Future = BoxFuture<'static, Result<Self::Response, kube::Error>>;

        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), kube::Error>> {
            std::task::Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: http::Request<Body>) -> Self::Future {
            let Self { answers, asked } = self.clone();
            Box::pin(async move {
                let line = format!("{} {}", request.method(), request.uri());
                let body = request.into_body().collect_bytes().await?;
                asked.lock().unwrap().push((line, serde_json::from_slice(&body).unwrap_or_default()));
                let (code, answer) =
                    answers.lock().unwrap().pop_front().expect("one request more than expected");
                let answer = Body::from(serde_json::to_vec(&answer).unwrap());
                Ok(http::Response::builder().status(code).body(answer).unwrap())
            })
        }
    }

    fn prepared(answers: impl IntoIterator<Item = (u16, Value)>) -> (KubeCluster, Prepared) {
        let answers = Arc::new(Mutex::new(answers.into_iter().collect()));
        let server = Prepared { answers, asked: Arc::default() };
        (KubeCluster::new(Client::new(server.clone(), "demo")), server)
    }

    #[tokio::test]
    async fn a_list_is_read_to_its_last_page() {
        let page = |name: &str, next: &str| {
            let item = json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name } });
            (200, json!({ "metadata": { "continue": next }, "items": [item] }))
        };
        let (cluster, server) = prepared([page("b", "more"), page("a", "")]);
        let listed = cluster.list(Kind::Job, Some("demo"), &BTreeMap::new()).await.unwrap();
        let names: Vec<_> = listed.into_iter().filter_map(|job| job.metadata.name).collect();
        assert_eq!(names, ["a", "b"]);
        let asked = server.asked.lock().unwrap();
        assert!(asked[0].0.contains("limit=500") && asked[1].0.contains("continue=more"), "{asked:?}");
    }

    #[tokio::test]
    async fn a_deletion_names_the_uid_and_a_status_the_version_that_it_rests_on() {
        let done = json!({ "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Success" });
        let set =
            json!({ "apiVersion": "sealign.dev/v1alpha1", "kind": "TaskSet", "metadata": { "name": "t" } });
        let (cluster, server) = prepared([(200, done), (200, set)]);
        cluster.delete(Kind::Job, "demo", "j", "u-1").await.unwrap();
        cluster.patch_status(Kind::TaskSet, "demo", "t", "7", &json!({ "taskCount": 1 })).await.unwrap();
        let asked = server.asked.lock().unwrap();
        assert_eq!(asked[0].1["preconditions"], json!({ "uid": "u-1" }));
        assert_eq!(asked[0].1["propagationPolicy"], "Background");
        assert!(
            asked[1].0.starts_with("PUT ") && asked[1].0.contains("/tasksets/t/status"),
            "{}",
            asked[1].0
        );
        assert_eq!(asked[1].1["metadata"]["resourceVersion"], "7");
    }

    #[tokio::test]
    async fn a_create_whose_answer_is_in_doubt_is_not_sent_again() {
        let late = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 504,
            "reason": "Timeout", "message": "no answer" });
        let (cluster, server) = prepared([(504, late)]);
        let set: DynamicObject =
            serde_json::from_value(json!({ "metadata": { "name": "t", "namespace": "demo" }, "spec": {} }))
                .unwrap();
        let error = cluster.create(Kind::TaskSet, &set).await.unwrap_err();
        assert!(matches!(error, ClusterError::Unavailable(_)), "{error}");
        assert_eq!(server.asked.lock().unwrap().len(), 1);
    }
}
