//! The model client against a small HTTP server that answers as told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sealign_agent::openai::{Endpoint, OpenAi, Retries};
use sealign_agent::{Completion, CompletionRequest, FinishReason, Model, ModelError, Sampling};
use sealign_trajectory::{Message, Role};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// What the server does with one request.
#[derive(Clone)]
enum Answer {
    Reply(u16, &'static str, String),
    /// Closes the connection without a word.
    Hang,
    /// Says nothing for so long.
    Silent(Duration),
}

/// A server that gives its answers in order, the last one again and again, and remembers what it was asked.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    most_at_once: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (at_once, most_at_once) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (log, most) = (asked.clone(), most_at_once.clone());
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (log, answers, most, at_once) =
                    (log.clone(), answers.clone(), most.clone(), at_once.clone());
                tokio::spawn(async move {
                    let Some((head, body)) = read_request(&mut stream).await else { return };
                    let now = at_once.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(now, Ordering::SeqCst);
                    let index = {
                        let mut log = log.lock().unwrap();
                        log.push((head, body));
                        (log.len() - 1).min(answers.len() - 1)
                    };
                    match &answers[index] {
                        Answer::Reply(status, headers, body) => {
                            let reply = format!(
                                "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}",
                                body.len()
                            );
                            let _ = stream.write_all(reply.as_bytes()).await;
                        }
                        Answer::Hang => {}
                        Answer::Silent(time) => tokio::time::sleep(*time).await,
                    }
                    at_once.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { url, asked, most_at_once, task }
    }

    fn endpoint(&self) -> Endpoint {
        let retries =
            Retries { tries: 3, wait: Duration::from_millis(5), wait_max: Duration::from_millis(20) };
        Endpoint { retries, request_time: Duration::from_secs(5), ..Endpoint::new(&self.url, "small") }
    }

    fn asked(&self) -> Vec<(String, Value)> {
        self.asked.lock().unwrap().clone()
    }
}

async fn read_request(stream: &mut tokio::net::TcpStream) -> Option<(String, Value)> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let count = stream.read(&mut chunk).await.ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let head = head.to_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |value| value.trim().parse::<usize>().unwrap());
        if body.len() >= length {
            return Some((head, serde_json::from_str(body).unwrap_or_default()));
        }
    }
}

fn ok(text: &str) -> Answer {
    reply(&json!({
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15},
        "unknown": [1, 2],
    }))
}

fn reply(body: &Value) -> Answer {
    Answer::Reply(200, "", body.to_string())
}

fn status(status: u16) -> Answer {
    Answer::Reply(status, "", json!({"error": {"message": "no luck", "code": null}}).to_string())
}

async fn ask(endpoint: Endpoint) -> Result<Completion, ModelError> {
    let model = OpenAi::new(endpoint).unwrap();
    complete(&model, &Sampling::default()).await
}

async fn complete(model: &OpenAi, sampling: &Sampling) -> Result<Completion, ModelError> {
    let messages = [
        Message { role: Role::System, content: "s".into() },
        Message { role: Role::User, content: "ü".into() },
    ];
    let stop = ["</function".to_owned()];
    model
        .complete(&CompletionRequest { messages: &messages, sampling, max_tokens: 90, seed: 5, stop: &stop })
        .await
}

#[tokio::test]
async fn a_request_holds_what_was_asked_and_no_more() {
    let server = Server::start(vec![ok("hello")]).await;
    let completion = ask(server.endpoint()).await.unwrap();
    assert_eq!((completion.text.as_str(), completion.finish), ("hello", FinishReason::Stop));
    assert_eq!((completion.usage.prompt_tokens, completion.usage.completion_tokens), (12, 3));
    let (head, body) = server.asked().remove(0);
    assert!(head.starts_with("post /v1/chat/completions ") && !head.contains("authorization"));
    assert_eq!(
        body,
        json!({
            "model": "small",
            "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "ü"}],
            "temperature": 0.0, "top_p": 1.0, "max_tokens": 90, "seed": 5, "stream": false,
            "stop": ["</function"],
        })
    );
}

#[tokio::test]
async fn a_repetition_penalty_is_sent_only_when_asked_for() {
    let server = Server::start(vec![ok("x")]).await;
    let model = OpenAi::new(server.endpoint()).unwrap();
    let sampling = Sampling { repetition_penalty: Some(1.0), ..Sampling::default() };
    complete(&model, &sampling).await.unwrap();
    assert_eq!(server.asked()[0].1["repetition_penalty"], json!(1.0));
}

#[tokio::test]
async fn the_stop_sequence_that_a_server_names_is_put_back() {
    let choice = |stop_reason: Value| {
        reply(&json!({"choices": [{
            "message": {"content": "<function=finish>\n"}, "finish_reason": "stop", "stop_reason": stop_reason,
        }]}))
    };
    for (stop_reason, text) in [
        (json!("</function"), "<function=finish>\n</function"),
        (json!("other"), "<function=finish>\n"),
        (json!(151_645), "<function=finish>\n"),
        (Value::Null, "<function=finish>\n"),
    ] {
        let server = Server::start(vec![choice(stop_reason)]).await;
        assert_eq!(ask(server.endpoint()).await.unwrap().text, text);
    }
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_the_wait_is_reported() {
    for bad in [
        status(429),
        status(500),
        status(503),
        status(408),
        status(409),
        Answer::Hang,
        Answer::Reply(200, "", "<html>".into()),
        reply(&json!({"choices": []})),
    ] {
        let server = Server::start(vec![bad, ok("at last")]).await;
        let completion = ask(server.endpoint()).await.unwrap();
        assert_eq!(completion.text, "at last");
        assert!(completion.waited >= Duration::from_millis(3), "{:?}", completion.waited);
        assert_eq!(server.asked().len(), 2);
    }
}

#[tokio::test]
async fn what_cannot_pass_is_not_tried_again() {
    for code in [400, 401, 403, 404, 422] {
        let server = Server::start(vec![status(code), ok("no")]).await;
        let error = ask(server.endpoint()).await.unwrap_err();
        assert!(
            matches!(&error, ModelError::Configuration { status, reason } if *status == code && reason == "no luck"),
            "{error:?}"
        );
        assert!(!error.is_transient());
        assert_eq!(server.asked().len(), 1);
    }
}

#[tokio::test]
async fn an_outage_ends_after_its_tries_with_the_last_reason() {
    let server = Server::start(vec![status(502)]).await;
    let error = ask(server.endpoint()).await.unwrap_err();
    assert!(
        matches!(&error, ModelError::Unavailable { tries: 3, reason } if reason == "502: no luck"),
        "{error:?}"
    );
    let server = Server::start(vec![status(429)]).await;
    let error = ask(server.endpoint()).await.unwrap_err();
    assert!(matches!(error, ModelError::Throttled { tries: 3 }), "{error:?}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_outage() {
    let server = Server::start(vec![ok("x")]).await;
    let endpoint = server.endpoint();
    drop(server);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(matches!(ask(endpoint).await.unwrap_err(), ModelError::Unavailable { tries: 3, .. }));
}

#[tokio::test]
async fn a_slow_server_is_given_its_time_and_then_tried_again() {
    let server = Server::start(vec![Answer::Silent(Duration::from_secs(30)), ok("quick")]).await;
    let endpoint = Endpoint { request_time: Duration::from_millis(200), ..server.endpoint() };
    let begun = Instant::now();
    assert_eq!(ask(endpoint).await.unwrap().text, "quick");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let body = json!({"message": "slow down"}).to_string();
    let server = Server::start(vec![Answer::Reply(429, "retry-after: 1\r\n", body), ok("x")]).await;
    let completion = ask(server.endpoint()).await.unwrap();
    assert!(completion.waited >= Duration::from_secs(1), "{:?}", completion.waited);
}

#[tokio::test]
async fn an_overflow_of_the_context_is_told_from_other_bad_requests() {
    for message in [
        "This model's Maximum context length is 720 tokens. However, you requested 800.",
        "prompt is too long: 40000 tokens",
        "the input exceeds the maximum",
    ] {
        for body in [json!({"error": {"message": message}}), json!({"message": message, "object": "error"})] {
            let server = Server::start(vec![Answer::Reply(400, "", body.to_string())]).await;
            assert!(matches!(ask(server.endpoint()).await, Err(ModelError::ContextExceeded)), "{body}");
        }
    }
    let body = json!({"error": {"message": "bad", "code": "context_length_exceeded"}}).to_string();
    let server = Server::start(vec![Answer::Reply(400, "", body)]).await;
    assert!(matches!(ask(server.endpoint()).await, Err(ModelError::ContextExceeded)));
}

#[tokio::test]
async fn the_key_is_sent_from_its_file_and_shown_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "sk-hidden\n").unwrap();
    let server = Server::start(vec![status(401)]).await;
    let endpoint = Endpoint { api_key_file: Some(file.clone()), ..server.endpoint() };
    let model = OpenAi::new(endpoint.clone()).unwrap();
    let error = complete(&model, &Sampling::default()).await.unwrap_err();
    assert!(server.asked()[0].0.contains("authorization: bearer sk-hidden"));
    assert!(!format!("{error:?} {model:?}").contains("sk-hidden"));
    std::fs::write(&file, "").unwrap();
    let error = ask(endpoint).await.unwrap_err();
    assert!(error.to_string().contains("does not hold a key"), "{error}");
}

#[tokio::test]
async fn no_more_requests_are_in_flight_than_allowed() {
    let server = Server::start(vec![Answer::Silent(Duration::from_millis(30)); 1]).await;
    let retries = Retries { tries: 1, ..server.endpoint().retries };
    let model = OpenAi::new(Endpoint { in_flight_max: 2, retries, ..server.endpoint() }).unwrap();
    let sampling = Sampling::default();
    let all = (0..10).map(|_| complete(&model, &sampling));
    futures::future::join_all(all).await;
    assert_eq!(server.most_at_once.load(Ordering::SeqCst), 2);
    assert_eq!(server.asked().len(), 10);
}

#[tokio::test]
async fn requests_keep_to_their_rate() {
    let server = Server::start(vec![ok("x")]).await;
    let model = OpenAi::new(Endpoint { requests_per_minute: Some(600), ..server.endpoint() }).unwrap();
    let begun = Instant::now();
    for _ in 0..4 {
        complete(&model, &Sampling::default()).await.unwrap();
    }
    assert!(begun.elapsed() >= Duration::from_millis(290), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_reply_beyond_its_bound_is_not_read_to_the_end() {
    let server = Server::start(vec![ok(&"x".repeat(17 * 1024 * 1024))]).await;
    let error = ask(server.endpoint()).await.unwrap_err();
    assert!(
        matches!(&error, ModelError::Unavailable { reason, .. } if reason.contains("larger")),
        "{error:?}"
    );
}

#[tokio::test]
async fn readiness_is_a_server_that_lists_the_model() {
    let server = Server::start(vec![reply(&json!({"data": [{"id": "other"}, {"id": "small"}]}))]).await;
    OpenAi::new(server.endpoint()).unwrap().ready().await.unwrap();
    let server = Server::start(vec![reply(&json!({"data": [{"id": "other"}]}))]).await;
    let error = OpenAi::new(server.endpoint()).unwrap().ready().await.unwrap_err();
    assert!(error.to_string().contains("no model `small`"), "{error}");
    let server = Server::start(vec![status(503)]).await;
    assert!(OpenAi::new(server.endpoint()).unwrap().ready().await.unwrap_err().is_transient());
}

#[test]
fn a_base_url_that_is_none_is_refused_before_anything_is_sent() {
    for url in ["", "localhost:8000", "ftp://x/v1"] {
        assert!(
            matches!(OpenAi::new(Endpoint::new(url, "m")), Err(ModelError::Configuration { .. })),
            "{url}"
        );
    }
}
