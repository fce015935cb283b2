//! The HTTP side: `/v1/chat/completions`, `/v1/models`, `/tokenize`, `/health`, `/metrics`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use sealign_batch::conversation::{EncodeError, Encoder};
use sealign_batch::{ChatFormat, MaskMode, Message, Tokenizer};
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

use super::api::{ChatRequest, ChatResponse};
use super::engine::{Engine, EngineError, EngineOptions, Request};
use super::figures::{Running, ServeFigures};
use super::sampling::Sampling;
use super::stream::{self, Header};
use crate::model::Decoder;
use crate::model::directory::{self, DirectoryError};
use crate::train::checkpoint::write_whole;

/// Request bodies at most, in bytes: a context of 128k tokens with room.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Model folder.
    pub model: PathBuf,
    /// Name under which it is served; the folder's name by default.
    pub name: Option<String>,
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// File that gets `http://ADDRESS` once requests are accepted.
    pub address_file: Option<PathBuf>,
    /// Longest prompt and answer in tokens; by default what the model was made for.
    pub context: Option<usize>,
    /// Limits of the engine.
    pub engine: EngineOptions,
}

/// Why a server could not start or run.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The model folder cannot be used.
    #[error("the model cannot be served")]
    Model(#[from] DirectoryError),
    /// The model has no end-of-turn token.
    #[error("{path} names no eos_token_id; answers would never end. Add it to generation_config.json")]
    NoEnd {
        /// The model folder.
        path: PathBuf,
    },
    /// The address cannot be listened on.
    #[error("{address} cannot be listened on; choose another --listen address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The address file cannot be written.
    #[error("{path} cannot be written")]
    AddressFile {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Threads or sockets failed.
    #[error("the server failed")]
    Run(#[source] std::io::Error),
}

/// A model that is served.
#[derive(Debug)]
pub struct Server {
    name: String,
    context: usize,
    tokenizer: Arc<Tokenizer>,
    format: ChatFormat,
    engine: Engine,
    numbered: AtomicU64,
    figures: ServeFigures,
}

/// Serves until `shutdown` resolves.
pub async fn serve(
    options: ServeOptions,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let server = Arc::new(Server::load(&options)?);
    let listener = tokio::net::TcpListener::bind(options.listen)
        .await
        .map_err(|source| ServeError::Listen { address: options.listen, source })?;
    let address = listener.local_addr().map_err(ServeError::Run)?;
    if let Some(path) = &options.address_file {
        write_whole(path, format!("http://{address}").as_bytes())
            .map_err(|source| ServeError::AddressFile { path: path.clone(), source })?;
    }
    tracing::info!(%address, model = server.name, "serving");
    axum::serve(listener, router(server)).with_graceful_shutdown(shutdown).await.map_err(ServeError::Run)
}

fn router(server: Arc<Server>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/models", get(models))
        .route("/tokenize", post(tokenize))
        .route("/health", get(|| async { StatusCode::OK }))
        .route("/metrics", get(|State(server): State<Arc<Server>>| async move { server.figures.text() }))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(server)
}

impl Server {
    fn load(options: &ServeOptions) -> Result<Self, ServeError> {
        let folder = options.model.as_path();
        let config = directory::read_config(folder)?;
        let tokenizer = directory::read_tokenizer(folder)?;
        directory::check_vocabulary(folder, &tokenizer, &config)?;
        let format = directory::read_chat_format(folder, &tokenizer)?;
        let ends = end_tokens(folder, &config.document, &tokenizer, &format);
        if ends.is_empty() {
            return Err(ServeError::NoEnd { path: folder.to_owned() });
        }
        let weights = directory::read_weights(folder, &config)?;
        let context = options.context.unwrap_or(config.max_positions).min(config.max_positions);
        let tokenizer = Arc::new(tokenizer);
        let model = Decoder { config, weights };
        let engine =
            Engine::start(model, Arc::clone(&tokenizer), ends, options.engine).map_err(ServeError::Run)?;
        let folder_name = folder.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy());
        let name = options.name.clone().unwrap_or_else(|| folder_name.into_owned());
        let figures = ServeFigures::new().map_err(|error| ServeError::Run(std::io::Error::other(error)))?;
        Ok(Self { name, context, tokenizer, format, engine, numbered: AtomicU64::new(0), figures })
    }

    /// Name of the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The counters.
    pub fn figures(&self) -> &ServeFigures {
        &self.figures
    }

    fn encode(&self, messages: &[Value]) -> Result<Vec<u32>, EncodeError> {
        let messages: Vec<Message> = messages
            .iter()
            .enumerate()
            .map(|(index, message)| Message::from_value(index, message))
            .collect::<Result<_, _>>()?;
        Encoder { tokenizer: &self.tokenizer, format: &self.format, mask: MaskMode::Assistant }
            .prompt(&messages)
    }
}

/// Tokens that end an answer: those of `generation_config.json` and `config.json`, and ChatML's end of turn.
fn end_tokens(folder: &Path, config: &Value, tokenizer: &Tokenizer, format: &ChatFormat) -> Vec<u32> {
    let generation = std::fs::read(folder.join("generation_config.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or(Value::Null);
    let mut ends = Vec::new();
    for document in [&generation, config] {
        let ids = match document.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.clone(),
            Some(id) => vec![id.clone()],
            None => Vec::new(),
        };
        ends.extend(ids.iter().filter_map(Value::as_u64).filter_map(|id| u32::try_from(id).ok()));
    }
    if matches!(format, ChatFormat::ChatMl { .. }) {
        ends.extend(tokenizer.token_id(sealign_batch::chat::IM_END));
    }
    ends.sort_unstable();
    ends.dedup();
    ends
}

/// An error in OpenAI's form.
struct ApiError {
    status: StatusCode,
    kind: &'static str,
    param: Option<&'static str>,
    message: String,
}

impl ApiError {
    fn bad_request(param: Option<&'static str>, message: String) -> Self {
        Self { status: StatusCode::BAD_REQUEST, kind: "invalid_request_error", param, message }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({"error": {
            "message": self.message, "type": self.kind, "param": self.param, "code": self.status.as_u16(),
        }});
        (self.status, Json(body)).into_response()
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

async fn chat(
    State(server): State<Arc<Server>>,
    body: Result<Json<ChatRequest>, JsonRejection>,
) -> Result<Response, ApiError> {
    let running = server.figures.begin();
    let result = answer(&server, running, body).await;
    if result.is_err() {
        server.figures.count_refusal();
    }
    result
}

async fn answer(
    server: &Arc<Server>,
    running: Running,
    body: Result<Json<ChatRequest>, JsonRejection>,
) -> Result<Response, ApiError> {
    let Json(body) = body.map_err(|rejection| ApiError::bad_request(None, rejection.body_text()))?;
    if let Some((field, remedy)) = body.refused() {
        return Err(ApiError::bad_request(Some(field), format!("{field} {remedy}")));
    }
    if let Some(model) = body.model.as_ref().filter(|model| !model.is_empty() && **model != server.name) {
        let message = format!("The model {model:?} does not exist; this server has {:?}", server.name);
        return Err(ApiError {
            status: StatusCode::NOT_FOUND,
            kind: "not_found_error",
            param: Some("model"),
            message,
        });
    }
    let encoding = Arc::clone(server);
    let messages = body.messages.clone();
    let prompt = tokio::task::spawn_blocking(move || encoding.encode(&messages))
        .await
        .map_err(|error| ApiError::bad_request(Some("messages"), error.to_string()))?
        .map_err(|error| ApiError::bad_request(Some("messages"), with_causes(&error)))?;
    let prompt_tokens = prompt.len();
    let max_tokens = answer_room(&body, prompt_tokens, server.context)?;
    let request = Request {
        prompt,
        max_tokens,
        sampling: Sampling {
            temperature: body.temperature.unwrap_or(1.0),
            top_p: body.top_p.unwrap_or(1.0),
            seed: body.seed.unwrap_or(0).cast_unsigned(),
        },
        stops: body.stops(),
    };
    let answering = server.engine.begin(request).map_err(ApiError::from)?;
    let number = server.numbered.fetch_add(1, Ordering::Relaxed);
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let id = format!("chatcmpl-{number}");
    if body.stream == Some(true) {
        let with_usage = body.stream_options.is_some_and(|options| options.include_usage);
        let header = Header { id, created, prompt_tokens, with_usage, running };
        return Ok(stream::response(Arc::clone(server), header, answering));
    }
    let answer = answering.finish().await.map_err(ApiError::from)?;
    server.figures.count(prompt_tokens, &answer);
    Ok(Json(ChatResponse::new(id, created, server.name.clone(), prompt_tokens, answer)).into_response())
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let status = match error {
            EngineError::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            EngineError::Gone => StatusCode::SERVICE_UNAVAILABLE,
            EngineError::Decode(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, kind: "server_error", param: None, message: error.to_string() }
    }
}

/// Answer tokens that a request gets; a request that does not fit the context is refused in the words that clients look for.
fn answer_room(body: &ChatRequest, prompt_tokens: usize, context: usize) -> Result<usize, ApiError> {
    let wanted = body.answer_limit();
    let needed = prompt_tokens + wanted.unwrap_or(1);
    if needed > context {
        let message = format!(
            "This model's maximum context length is {context} tokens. However, you requested {needed} tokens \
             ({prompt_tokens} in the messages, {} in the completion). Please reduce the length of the messages or completion.",
            wanted.unwrap_or(1)
        );
        return Err(ApiError::bad_request(Some("messages"), message));
    }
    Ok(wanted.unwrap_or(context - prompt_tokens))
}

async fn models(State(server): State<Arc<Server>>) -> Json<Value> {
    Json(json!({"object": "list", "data": [{
        "id": server.name, "object": "model", "created": 0, "owned_by": "sealign", "root": server.name, "parent": null,
        "max_model_len": server.context,
    }]}))
}

/// Body of `POST /tokenize`.
#[derive(Debug, Deserialize)]
struct TokenizeRequest {
    messages: Vec<Value>,
}

async fn tokenize(
    State(server): State<Arc<Server>>,
    body: Result<Json<TokenizeRequest>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(body) = body.map_err(|rejection| ApiError::bad_request(None, rejection.body_text()))?;
    let tokens = server
        .encode(&body.messages)
        .map_err(|error| ApiError::bad_request(Some("messages"), with_causes(&error)))?;
    Ok(Json(json!({"count": tokens.len(), "max_model_len": server.context, "tokens": tokens})))
}
