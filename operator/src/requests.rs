//! Counting what we ask of the API server: a layer around the client, under the names that client-go gives, and one count by
//! verb and resource, which is what roles speak of.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures::future::BoxFuture;
use http::{Method, Request, Response};
use kube::client::Body;
use tower::{Layer, Service};

use crate::metrics::Metrics;

/// What a request does, in the words of a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: &'static str,
    /// API group; empty for the core.
    pub group: String,
    /// Resource, with its subresource behind a slash.
    pub resource: String,
}

/// Reads a request's path as a role would; `None` for paths that are no resource (`/version`, discovery).
pub fn access(method: &Method, path: &str, query: Option<&str>) -> Option<Access> {
    let mut parts = path.trim_start_matches('/').split('/').filter(|part| !part.is_empty());
    let group = match parts.next()? {
        "api" => {
            parts.next()?;
            String::new()
        }
        "apis" => {
            let group = parts.next()?.to_owned();
            parts.next()?;
            group
        }
        _ => return None,
    };
    let mut rest: Vec<&str> = parts.collect();
    if rest.first() == Some(&"namespaces") && rest.len() > 2 {
        rest.drain(..2);
    }
    let (resource, name) = (*rest.first()?, rest.get(1));
    let resource = match rest.get(2) {
        Some(sub) => format!("{resource}/{sub}"),
        None => resource.to_owned(),
    };
    let is_watch =
        query.is_some_and(|query| query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1")));
    let verb = match (method.as_str(), name) {
        ("GET", Some(_)) => "get",
        ("GET", None) if is_watch => "watch",
        ("GET", None) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", Some(_)) => "delete",
        ("DELETE", None) => "deletecollection",
        _ => return None,
    };
    Some(Access { verb, group, resource })
}

/// Wraps a client's service.
#[derive(Clone)]
pub struct Counting(pub Arc<Metrics>);

impl<S> Layer<S> for Counting {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, metrics: self.0.clone() }
    }
}

/// A service whose requests are counted.
#[derive(Clone)]
pub struct Counted<S> {
    inner: S,
    metrics: Arc<Metrics>,
}

impl<S, B> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<B>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let uri = request.uri();
        let access = access(request.method(), uri.path(), uri.query());
        let host = uri.authority().map_or_else(String::new, ToString::to_string);
        let (method, metrics, begun) = (request.method().clone(), self.metrics.clone(), Instant::now());
        let answering = self.inner.call(request);
        Box::pin(async move {
            let answer = answering.await;
            // As client-go does where there is no answer.
            let code =
                answer.as_ref().map_or_else(|_| "<error>".to_owned(), |a| a.status().as_u16().to_string());
            metrics.request(method.as_str(), &code, &host, access.as_ref(), begun.elapsed());
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: &Method, path: &str, query: Option<&str>, verb: &str, group: &str, resource: &str) {
        let access = access(method, path, query).unwrap();
        assert_eq!((access.verb, access.group.as_str(), access.resource.as_str()), (verb, group, resource));
    }

    #[test]
    fn paths_are_read_as_roles_would() {
        let jobs = "/apis/batch/v1/namespaces/demo/jobs";
        check(&Method::GET, jobs, Some("limit=500"), "list", "batch", "jobs");
        check(&Method::GET, "/apis/batch/v1/jobs", Some("a=b&watch=true"), "watch", "batch", "jobs");
        check(&Method::GET, &format!("{jobs}/x"), None, "get", "batch", "jobs");
        check(&Method::POST, jobs, None, "create", "batch", "jobs");
        check(&Method::DELETE, &format!("{jobs}/x"), None, "delete", "batch", "jobs");
        let status = "/apis/sealign.dev/v1alpha1/namespaces/demo/tasksets/t/status";
        check(&Method::PUT, status, None, "update", "sealign.dev", "tasksets/status");
        check(&Method::GET, "/api/v1/namespaces/demo", None, "get", "", "namespaces");
        check(&Method::GET, "/api/v1/namespaces/demo/pods", None, "list", "", "pods");
    }

    #[test]
    fn what_is_no_resource_is_nobodys_verb() {
        assert_eq!(access(&Method::GET, "/version", None), None);
        assert_eq!(access(&Method::GET, "/apis/batch/v1", None), None);
    }
}
