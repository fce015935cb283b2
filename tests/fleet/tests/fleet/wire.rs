//! The operator's way to the API server, on which its requests are lost, refused, and outlive it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use kube::client::{Body, DynBody};
use sealign_operator::requests;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tower::{BoxError, Layer, Service};

use crate::trip::Side;

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The operator dies.
    Death(Side),
    /// The server refuses with this status, and the request has no effect.
    Refused(u16),
    /// The request has its effect, and its answer is 504.
    AppliedTimeout,
    /// The request has its effect, and the connection ends before the answer.
    Reset,
    /// The request has no effect and gets no answer.
    Hang,
}

/// The twelve faults of a call.
pub const FAULTS: [Fault; 12] = [
    Fault::Death(Side::Before),
    Fault::Death(Side::After),
    Fault::Refused(403),
    Fault::Refused(409),
    Fault::Refused(422),
    Fault::Refused(429),
    Fault::Refused(500),
    Fault::Refused(503),
    Fault::Refused(504),
    Fault::AppliedTimeout,
    Fault::Reset,
    Fault::Hang,
];

/// What is known of a request when it is decided whether it goes wrong.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Its number among the writes (or, where reads count, among all requests), from 1.
    pub number: u64,
    /// Troubles before it.
    pub troubles: u64,
    /// Troubles of the same write before it: the same verb on the same object.
    pub same: u64,
}

/// Decides what goes wrong.
pub type Decide = Box<dyn Fn(Call) -> Option<Fault> + Send + Sync>;

/// Counts the requests of all lives of an operator and says which of them go wrong.
pub struct Wire {
    decide: Decide,
    /// Whether reads count too. Watches never do.
    with_reads: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    calls: u64,
    troubles: u64,
    writes: BTreeMap<String, u64>,
    same: BTreeMap<String, u64>,
    by_kind: BTreeMap<String, BTreeMap<Fault, u64>>,
}

impl Wire {
    pub fn new(with_reads: bool, decide: Decide) -> Arc<Self> {
        Arc::new(Self { decide, with_reads, state: Mutex::default() })
    }

    /// Kills before each write is sent, and, when it is tried again, after it was carried out.
    pub fn every_write() -> Arc<Self> {
        Self::new(false, Box::new(|call| Some(Fault::Death(side(call.same)))))
    }

    /// Kills at every `stride`th write, before and after in turn.
    pub fn spread(stride: u64) -> Arc<Self> {
        let decide =
            move |call: Call| call.number.is_multiple_of(stride).then(|| Fault::Death(side(call.troubles)));
        Self::new(false, Box::new(decide))
    }

    /// Disturbs nothing.
    pub fn quiet() -> Arc<Self> {
        Self::new(false, Box::new(|_| None))
    }

    fn next(&self, request: &Request<Body>) -> Option<Fault> {
        let uri = request.uri();
        let access = requests::access(request.method(), uri.path(), uri.query())?;
        let is_write = !["get", "list", "watch"].contains(&access.verb);
        let kind = format!("{} {}", access.verb, access.resource);
        let mut state = self.state.lock().unwrap();
        if is_write {
            *state.writes.entry(kind.clone()).or_default() += 1;
        }
        if access.verb == "watch" || !(is_write || self.with_reads) {
            return None;
        }
        state.calls += 1;
        let write = format!("{} {} {}", request.method(), uri.path(), created(request));
        let same = state.same.get(&write).copied().unwrap_or_default();
        let fault = (self.decide)(Call { number: state.calls, troubles: state.troubles, same })?;
        state.troubles += 1;
        *state.same.entry(write).or_default() += 1;
        *state.by_kind.entry(kind).or_default().entry(fault).or_default() += 1;
        Some(fault)
    }

    /// Writes by verb and resource, tried ones included.
    pub fn writes(&self) -> BTreeMap<String, u64> {
        self.state.lock().unwrap().writes.clone()
    }

    /// How often something went wrong.
    pub fn troubles(&self) -> u64 {
        self.state.lock().unwrap().troubles
    }

    /// Troubles by kind of request.
    pub fn by_kind(&self) -> BTreeMap<String, BTreeMap<Fault, u64>> {
        self.state.lock().unwrap().by_kind.clone()
    }
}

/// Name of the object that a request would create; empty for other requests.
fn created(request: &Request<Body>) -> String {
    if request.method() != http::Method::POST {
        return String::new();
    }
    let body = request.body().try_clone().and_then(|body| body.collect_bytes().now_or_never());
    let object = body.and_then(Result::ok).and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    object.and_then(|object| Some(object.pointer("/metadata/name")?.as_str()?.to_owned())).unwrap_or_default()
}

/// Before first: what was not sent is sent again and then dies after it was carried out.
fn side(before: u64) -> Side {
    if before.is_multiple_of(2) { Side::Before } else { Side::After }
}

/// One process of the operator on that way.
#[derive(Clone)]
pub struct Life {
    wire: Arc<Wire>,
    is_dead: Arc<AtomicBool>,
    death: Arc<Notify>,
}

impl Life {
    pub fn begin(wire: &Arc<Wire>) -> Self {
        Self { wire: wire.clone(), is_dead: Arc::default(), death: Arc::default() }
    }

    /// Resolves when it dies.
    pub async fn ended(&self) {
        self.death.notified().await;
    }

    async fn die<T>(&self) -> T {
        self.is_dead.store(true, Ordering::SeqCst);
        self.death.notify_one();
        std::future::pending().await
    }
}

impl<S> Layer<S> for Life {
    type Service = Wired<S>;

    fn layer(&self, inner: S) -> Wired<S> {
        Wired { inner, life: self.clone() }
    }
}

/// A client's service on that way.
pub struct Wired<S> {
    inner: S,
    life: Life,
}

type Answer = Response<Box<DynBody>>;

impl<S> Service<Request<Body>> for Wired<S>
where
    S: Service<Request<Body>, Response = Answer, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Answer;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Answer, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let life = self.life.clone();
        if life.is_dead.load(Ordering::SeqCst) {
            return Box::pin(std::future::pending());
        }
        let fault = life.wire.next(&request);
        match fault {
            None => Box::pin(self.inner.call(request)),
            Some(Fault::Death(Side::Before)) => Box::pin(async move { life.die().await }),
            Some(Fault::Hang) => Box::pin(std::future::pending()),
            Some(Fault::Refused(code)) => Box::pin(async move { Ok(refusal(code)) }),
            Some(applied) => {
                let answering = self.inner.call(request);
                Box::pin(async move {
                    let answer = answering.await;
                    match applied {
                        Fault::Death(_) => life.die().await,
                        Fault::AppliedTimeout => Ok(refusal(504)),
                        Fault::Reset => Err("the connection was reset".into()),
                        Fault::Refused(_) | Fault::Hang => answer,
                    }
                })
            }
        }
    }
}

fn refusal(code: u16) -> Answer {
    let reason = match code {
        403 => "Forbidden",
        409 => "Conflict",
        422 => "Invalid",
        429 => "TooManyRequests",
        504 => "Timeout",
        _ => "InternalError",
    };
    let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "made up by a test", "reason": reason, "code": code });
    let body =
        Full::new(bytes::Bytes::from(status.to_string())).map_err(|never| -> BoxError { match never {} });
    let mut answer = Response::new(Box::new(body) as Box<DynBody>);
    *answer.status_mut() = StatusCode::from_u16(code).unwrap();
    answer.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    answer
}
