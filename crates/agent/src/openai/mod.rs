//! A client of OpenAI-compatible chat completion servers: vLLM, `sealign-trainer serve`, hosted ones.
//!
//! One layer of repetition, here: 408, 409, 429, 5xx, transport errors and unreadable replies are tried again with growing
//! waits, `Retry-After` honoured, within bounds; 400, 401, 403 and 404 never are. One pace for all attempts that share the
//! client: requests in flight and requests a minute. The key is read from its file at each request, so a rotated secret
//! is picked up, and appears in no message.

mod pace;
mod wire;

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode};
use tokio::time::Instant;

use self::pace::Pace;
use crate::model::{Completion, CompletionRequest, Model, ModelError};

/// Largest reply that is read: 32k tokens of text are under 1 MiB, and JSON may escape every character.
const REPLY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest wait that a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(5);
/// Longest key file; a key is one short line.
const KEY_BYTES_MAX: usize = 16 * 1024;
/// Longest piece of a server's words that an error quotes, in characters.
const REASON_CHARS_MAX: usize = 300;
/// Time for a server to accept a connection.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// Bounds of repetition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Tries, the first included; at least 1.
    pub tries: u32,
    /// Wait before the second try; doubled before each further one, up to `wait_max`, less up to a quarter that differs by
    /// request, so that many attempts do not come back at once.
    pub wait: Duration,
    /// Longest wait between tries that the client chooses itself.
    pub wait_max: Duration,
}

impl Default for Retries {
    /// Ten tries within about seven minutes: a model server needs minutes to load weights.
    fn default() -> Self {
        Self { tries: 10, wait: Duration::from_secs(2), wait_max: Duration::from_mins(1) }
    }
}

/// Where the server is and how it is used.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Base URL up to and with `/v1`, without a trailing slash.
    pub base_url: String,
    /// The model's name there.
    pub model: String,
    /// File that holds the API key; none for servers without.
    pub api_key_file: Option<PathBuf>,
    /// Requests in flight at most.
    pub in_flight_max: usize,
    /// Requests a minute at most; `None` sets no bound.
    pub requests_per_minute: Option<u32>,
    /// Time of one request, from sending to the last byte.
    pub request_time: Duration,
    /// Bounds of repetition.
    pub retries: Retries,
}

impl Endpoint {
    /// A server without a key, with 64 requests in flight and ten minutes for each.
    pub fn new(base_url: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            model: model.into(),
            api_key_file: None,
            in_flight_max: 64,
            requests_per_minute: None,
            request_time: Duration::from_mins(10),
            retries: Retries::default(),
        }
    }
}

/// The client. Share it between attempts; the bounds of pace hold for all that do.
#[derive(Debug)]
pub struct OpenAi {
    endpoint: Endpoint,
    client: Client,
    pace: Pace,
}

/// What became of one try.
enum Tried {
    Done(Completion),
    Never(ModelError),
    Again { reason: String, is_throttled: bool, after: Option<Duration> },
}

impl OpenAi {
    /// Sets the client up; nothing is sent.
    ///
    /// # Errors
    /// [`ModelError::Configuration`] for a URL that is none.
    pub fn new(endpoint: Endpoint) -> Result<Self, ModelError> {
        let wrong = |reason: String| ModelError::Configuration { status: 0, reason };
        let base = endpoint.base_url.trim_end_matches('/').to_owned();
        if !base.starts_with("http://") && !base.starts_with("https://") {
            return Err(wrong(format!("`{}` is not an http or https URL", bounded(&base))));
        }
        let client = Client::builder()
            .connect_timeout(CONNECT_TIME)
            .timeout(endpoint.request_time)
            // A redirect would carry the key elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|error| wrong(bounded(&chain(&error))))?;
        let pace = Pace::new(endpoint.in_flight_max, endpoint.requests_per_minute);
        Ok(Self { endpoint: Endpoint { base_url: base, ..endpoint }, client, pace })
    }

    async fn headers(&self) -> Result<HeaderMap, ModelError> {
        let mut headers = HeaderMap::new();
        let Some(path) = &self.endpoint.api_key_file else { return Ok(headers) };
        let wrong = |problem: &str| ModelError::Configuration {
            status: 0,
            reason: format!("API key file `{}` {problem}", path.display()),
        };
        let bytes = tokio::fs::read(path).await.map_err(|_| wrong("cannot be read"))?;
        let key = std::str::from_utf8(&bytes).ok().map(str::trim).filter(|key| !key.is_empty());
        let key = key.filter(|key| key.len() <= KEY_BYTES_MAX).ok_or_else(|| wrong("does not hold a key"))?;
        let mut value =
            HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| wrong("does not hold a key"))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
        Ok(headers)
    }

    async fn try_once(&self, request: &CompletionRequest<'_>) -> Tried {
        let headers = match self.headers().await {
            Ok(headers) => headers,
            Err(error) => return Tried::Never(error),
        };
        let body = wire::request(&self.endpoint.model, request);
        let url = format!("{}/chat/completions", self.endpoint.base_url);
        let again = |reason: &str| Tried::Again { reason: bounded(reason), is_throttled: false, after: None };
        let response = match self.client.post(url).headers(headers).json(&body).send().await {
            Ok(response) => response,
            Err(error) => return again(&chain(&error.without_url())),
        };
        let (status, after) = (response.status(), retry_after(&response));
        let bytes = match read(response).await {
            Ok(bytes) => bytes,
            Err(reason) => return again(&reason),
        };
        if status.is_success() {
            return match wire::completion(&bytes, request.stop) {
                Ok(completion) => Tried::Done(completion),
                Err(reason) => again(&reason),
            };
        }
        let message = wire::error_message(&bytes);
        if status == StatusCode::BAD_REQUEST && wire::is_context_overflow(&message) {
            return Tried::Never(ModelError::ContextExceeded);
        }
        let reason = bounded(&message);
        match status.as_u16() {
            429 => Tried::Again { reason, is_throttled: true, after },
            408 | 409 | 500..=599 => {
                Tried::Again { reason: format!("{}: {reason}", status.as_u16()), is_throttled: false, after }
            }
            status => Tried::Never(ModelError::Configuration { status, reason }),
        }
    }

    /// The wait before try number `tries + 1`.
    fn wait(&self, tries: u32, seed: u32, after: Option<Duration>) -> Duration {
        let Retries { wait, wait_max, .. } = self.endpoint.retries;
        let grown = wait.saturating_mul(2_u32.saturating_pow(tries.saturating_sub(1))).min(wait_max);
        // Spread without a random source: any mixing of seed and try will do.
        let spread = seed.wrapping_mul(0x9e37_79b9).wrapping_add(tries.wrapping_mul(0x85eb_ca6b)) >> 24;
        let own = grown.mul_f64(1.0 - f64::from(spread) / 1024.0);
        after.map_or(own, |asked| asked.min(RETRY_AFTER_MAX).max(own))
    }
}

#[async_trait]
impl Model for OpenAi {
    async fn complete(&self, request: &CompletionRequest<'_>) -> Result<Completion, ModelError> {
        let begun = Instant::now();
        let mut tries = 0;
        loop {
            tries += 1;
            let place = self.pace.enter().await;
            let sent = Instant::now();
            let answer = self.try_once(request).await;
            drop(place);
            let (reason, is_throttled, after) = match answer {
                Tried::Done(completion) => {
                    return Ok(Completion { waited: sent.duration_since(begun), ..completion });
                }
                Tried::Never(error) => return Err(error),
                Tried::Again { reason, is_throttled, after } => (reason, is_throttled, after),
            };
            if tries >= self.endpoint.retries.tries {
                return Err(if is_throttled {
                    ModelError::Throttled { tries }
                } else {
                    ModelError::Unavailable { tries, reason }
                });
            }
            tracing::debug!(tries, reason, "a completion is tried again");
            tokio::time::sleep(self.wait(tries, request.seed, after)).await;
        }
    }

    /// Asks for the list of models and looks for the configured one.
    async fn ready(&self) -> Result<(), ModelError> {
        let unavailable = |reason: &str| ModelError::Unavailable { tries: 1, reason: bounded(reason) };
        let headers = self.headers().await?;
        let url = format!("{}/models", self.endpoint.base_url);
        let sent = self.client.get(url).headers(headers).timeout(CONNECT_TIME).send().await;
        let response = sent.map_err(|error| unavailable(&chain(&error.without_url())))?;
        let status = response.status();
        let bytes = read(response).await.map_err(|reason| unavailable(&reason))?;
        let reason = bounded(&wire::error_message(&bytes));
        match status.as_u16() {
            200 if wire::lists_model(&bytes, &self.endpoint.model) => Ok(()),
            200 => Err(ModelError::Configuration {
                status: 200,
                reason: format!("the server has no model `{}`", bounded(&self.endpoint.model)),
            }),
            408 | 409 | 429 | 500..=599 => Err(unavailable(&reason)),
            status => Err(ModelError::Configuration { status, reason }),
        }
    }
}

/// Reads a reply within its bound.
async fn read(mut response: Response) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| chain(&error.without_url()))? {
        if bytes.len() + chunk.len() > REPLY_BYTES_MAX {
            return Err(format!("the reply is larger than {REPLY_BYTES_MAX} bytes"));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// One bounded line of foreign text.
fn bounded(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON_CHARS_MAX).collect()
}

/// An error and its causes, as one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
