//! Answers as server-sent events: one chunk of OpenAI's form for each piece of text, as soon as no stop string can begin in it.

use std::convert::Infallible;
use std::sync::Arc;

use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde_json::{Value, json};

use super::api::reason;
use super::engine::{Answering, EngineError};
use super::figures::Running;
use super::http::Server;

/// What every chunk of an answer carries.
#[derive(Debug)]
pub struct Header {
    /// Name of the answer.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// Prompt tokens, for the usage.
    pub prompt_tokens: usize,
    /// Send a last chunk with the usage.
    pub with_usage: bool,
    /// Dropped when the stream ends.
    pub running: Running,
}

/// What is left to send.
enum Stage {
    Start(Answering),
    Text(Answering),
    /// Ready chunks.
    Rest(std::vec::IntoIter<String>),
}

/// The answer as it comes.
pub fn response(server: Arc<Server>, header: Header, answering: Answering) -> Response {
    let stages =
        stream::unfold((Stage::Start(answering), header, server), |(stage, header, server)| async move {
            let (data, stage) = match stage {
                Stage::Start(answering) => {
                    let delta = json!({"role": "assistant", "content": ""});
                    (header.chunk(&server, &delta, &Value::Null), Stage::Text(answering))
                }
                Stage::Text(mut answering) => {
                    if let Some(text) = answering.deltas.recv().await {
                        let delta = json!({"content": text});
                        (header.chunk(&server, &delta, &Value::Null), Stage::Text(answering))
                    } else {
                        let mut rest = header.end(&server, answering.finish().await).into_iter();
                        (rest.next()?, Stage::Rest(rest))
                    }
                }
                Stage::Rest(mut rest) => (rest.next()?, Stage::Rest(rest)),
            };
            Some((Ok::<_, Infallible>(Event::default().data(data)), (stage, header, server)))
        });
    Sse::new(stages).into_response()
}

impl Header {
    fn chunk(&self, server: &Server, delta: &Value, finish_reason: &Value) -> String {
        json!({
            "id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": server.name(),
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
        })
        .to_string()
    }

    /// The last chunks.
    fn end(&self, server: &Server, answer: Result<super::engine::Answer, EngineError>) -> Vec<String> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                server.figures().count_refusal();
                return vec![
                    json!({"error": {"message": error.to_string(), "type": "server_error"}}).to_string(),
                ];
            }
        };
        server.figures().count(self.prompt_tokens, &answer);
        let mut chunks = vec![self.chunk(server, &json!({}), &json!(reason(&answer.finish)))];
        if self.with_usage {
            let usage = json!({
                "prompt_tokens": self.prompt_tokens, "completion_tokens": answer.tokens,
                "total_tokens": self.prompt_tokens + answer.tokens,
            });
            chunks.push(
                json!({
                    "id": self.id, "object": "chat.completion.chunk", "created": self.created,
                    "model": server.name(), "choices": [], "usage": usage,
                })
                .to_string(),
            );
        }
        chunks.push("[DONE]".to_owned());
        chunks
    }
}
