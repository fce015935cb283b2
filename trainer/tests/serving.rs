//! Batched decoding, the prefix cache and the HTTP side.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failing test panics"
)]
#![allow(non_snake_case, reason = "tensor names carry their shape")]

mod common;

use std::sync::Arc;

use common::{Numbers, config, model, model_folder, write_tokenizer};
use sealign_batch::{Layout, PackedBatch, SequenceInput, Tokenizer};
use sealign_trainer::model::Decoder;
use sealign_trainer::model::decoder::Inputs;
use sealign_trainer::serve::batch::{Extension, extend};
use sealign_trainer::serve::cache::{PrefixCache, Sequence};
use sealign_trainer::serve::engine::{Answer, Finish, Request};
use sealign_trainer::serve::sampling::Sampling;
use sealign_trainer::serve::{Engine, EngineOptions, ServeOptions, serve};
use serde_json::{Value, json};
use tch::Tensor;

fn tokenizer() -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    write_tokenizer(folder.path());
    Tokenizer::from_json(&std::fs::read(folder.path().join("tokenizer.json")).unwrap()).unwrap()
}

fn models() -> Vec<Decoder> {
    tch::set_num_threads(2);
    vec![
        model(&config("qwen2", 4, 4, true), 21),
        model(&config("llama", 4, 2, false), 22),
        model(&config("qwen2", 4, 1, false), 23),
    ]
}

fn extend_one(model: &Decoder, sequence: &mut Sequence, ids: &[u32]) -> Tensor {
    extend(model, &mut [Extension { sequence, tokens: ids.to_vec() }]).get(0)
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let mut values = vec![0.0_f32; tensor.numel()];
    tensor.copy_data(&mut values, tensor.numel());
    values.into_iter().map(f32::to_bits).collect()
}

#[test]
fn cached_logits_are_those_of_the_training_forward_pass() {
    for model in models() {
        let ids = Numbers(3).ids(70);
        let mut sequence = Sequence::new(&model.config);
        let served = extend_one(&model, &mut sequence, &ids);
        let weights = vec![1.0; ids.len() + 1];
        let longer: Vec<u32> = ids.iter().copied().chain([0]).collect();
        let batch = PackedBatch::pack(&[SequenceInput { ids: &longer, weights: &weights }], Layout::Linear);
        let hidden = model.infer(&Inputs::new(&model.config, &batch));
        let trained = tch::no_grad(|| model.logits(&hidden)).get(69);
        assert!((served - trained).abs().max().double_value(&[]) < 1e-4);
    }
}

#[test]
fn prefill_decoding_chunks_and_company_give_the_same_bits() {
    for model in models() {
        let mut numbers = Numbers(5);
        let ids = numbers.ids(600);
        let mut whole = Sequence::new(&model.config);
        let expected = bits(&extend_one(&model, &mut whole, &ids));

        let mut chunked = Sequence::new(&model.config);
        let mut last = Vec::new();
        for chunk in ids.chunks(37) {
            last = bits(&extend_one(&model, &mut chunked, chunk));
        }
        assert_eq!(expected, last, "chunks");

        let mut decoded = Sequence::new(&model.config);
        let _ = extend_one(&model, &mut decoded, &ids[..490]);
        for id in &ids[490..] {
            last = bits(&extend_one(&model, &mut decoded, &[*id]));
        }
        assert_eq!(expected, last, "token by token, across a block's end");

        let mut mates: Vec<Sequence> = (0..9).map(|_| Sequence::new(&model.config)).collect();
        let mut target = Sequence::new(&model.config);
        let _ = extend_one(&model, &mut target, &ids[..599]);
        let mut extensions: Vec<Extension<'_>> = mates
            .iter_mut()
            .enumerate()
            .map(|(index, sequence)| Extension { sequence, tokens: numbers.ids(1 + index * 5) })
            .collect();
        extensions.insert(4, Extension { sequence: &mut target, tokens: vec![ids[599]] });
        assert_eq!(expected, bits(&extend(&model, &mut extensions).get(4)), "among others");
    }
}

#[test]
fn a_conversation_that_continues_is_found_and_branches_are_copied() {
    let model = model(&config("qwen2", 4, 2, true), 24);
    let ids = Numbers(8).ids(100);
    let mut cache = PrefixCache::new(1 << 30);
    let mut first = cache.take(&model.config, &ids[..60], std::iter::empty());
    assert!(first.tokens.is_empty());
    let _ = extend_one(&model, &mut first, &ids[..60]);
    cache.put(first);

    let continued = cache.take(&model.config, &ids, std::iter::empty());
    assert_eq!(continued.tokens, ids[..60]);
    assert!(cache.is_empty(), "the sequence itself is continued");
    cache.put(continued);

    let mut other = ids[..20].to_vec();
    other.extend([1; 30]);
    let branch = cache.take(&model.config, &other, std::iter::empty());
    assert_eq!(branch.tokens, ids[..20]);
    assert_eq!(cache.len(), 1, "the other conversation keeps its prefix");
    let whole = cache.take(&model.config, &ids[..60], std::iter::empty());
    assert_eq!(whole.tokens.len(), 59, "the last prompt token is always computed");

    let mut small = PrefixCache::new(branch.bytes());
    small.put(branch);
    small.put(whole);
    assert_eq!(small.len(), 1, "memory is bounded");
}

fn request(prompt: Vec<u32>) -> Request {
    Request {
        prompt,
        max_tokens: 40,
        sampling: Sampling { temperature: 0.0, top_p: 1.0, seed: 0 },
        stops: Vec::new(),
    }
}

fn engine(seed: u64, options: EngineOptions) -> Engine {
    let model = model(&config("qwen2", 4, 2, true), seed);
    Engine::start(model, Arc::new(tokenizer()), vec![257], options).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_greedy_answer_does_not_depend_on_its_batch_mates() {
    tch::set_num_threads(2);
    let mut numbers = Numbers(9);
    let shared = numbers.ids(30);
    let prompts: Vec<Vec<u32>> = (0..12)
        .map(|index| {
            let mut prompt = shared[..if index % 2 == 0 { 30 } else { 0 }].to_vec();
            prompt.extend(numbers.ids(5 + index * 7));
            prompt
        })
        .collect();
    let mut alone: Vec<Answer> = Vec::new();
    for prompt in &prompts {
        // A fresh engine: nothing cached, nobody else.
        alone.push(engine(25, EngineOptions::default()).answer(request(prompt.clone())).await.unwrap());
    }
    for options in [
        EngineOptions::default(),
        EngineOptions { batch_max: 5, prompt_tokens_max: 13, ..EngineOptions::default() },
        EngineOptions { cache_bytes: 0, ..EngineOptions::default() },
    ] {
        let engine = engine(25, options);
        for _ in 0..2 {
            let answers =
                futures_join(prompts.iter().map(|prompt| engine.answer(request(prompt.clone()))).collect())
                    .await;
            for (expected, answer) in alone.iter().zip(answers) {
                let answer = answer.unwrap();
                assert_eq!((&expected.text, expected.tokens), (&answer.text, answer.tokens));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_greedy_repeats_in_changing_company_have_one_answer() {
    tch::set_num_threads(2);
    let mut numbers = Numbers(10);
    let short = |prompt| Request { max_tokens: 6, ..request(prompt) };
    let target = numbers.ids(33);
    let expected = engine(28, EngineOptions::default()).answer(short(target.clone())).await.unwrap();
    // Little memory for prefixes, so that the target finds its own sometimes, and sometimes not.
    let options = EngineOptions { batch_max: 9, prompt_tokens_max: 40, cache_bytes: 12 << 20 };
    let engine = engine(28, options);
    let (mut asked, mut cached) = (0, 0);
    while asked < 1000 {
        let repeats = 1 + usize::try_from(numbers.next(6)).unwrap();
        let mut requests: Vec<Request> = (0..repeats).map(|_| short(target.clone())).collect();
        for _ in 0..numbers.next(6) {
            let prefix = usize::try_from(numbers.next(33)).unwrap();
            let mut prompt = target[..prefix].to_vec();
            prompt.extend(numbers.ids(3));
            let place = usize::try_from(numbers.next(u32::try_from(requests.len()).unwrap() + 1)).unwrap();
            requests.insert(place, short(prompt));
        }
        let is_target: Vec<bool> = requests.iter().map(|request| request.prompt == target).collect();
        let answers =
            futures_join(requests.into_iter().map(|request| engine.answer(request)).collect()).await;
        for answer in
            answers.into_iter().zip(is_target).filter_map(|(answer, is_target)| is_target.then_some(answer))
        {
            let answer = answer.unwrap();
            assert_eq!((&answer.text, answer.tokens), (&expected.text, expected.tokens), "after {asked}");
            cached += usize::from(answer.cached_tokens > 0);
            asked += 1;
        }
    }
    assert!(cached > 0 && cached < asked, "{cached} of {asked} found a prefix");
}

/// Polls all futures concurrently.
async fn futures_join<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut pending: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut ready = true;
        for (future, result) in &mut pending {
            if result.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *result = Some(value),
                    std::task::Poll::Pending => ready = false,
                }
            }
        }
        if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    pending.into_iter().map(|(_, result)| result.unwrap()).collect()
}

#[tokio::test]
async fn stop_strings_end_the_answer_and_are_not_part_of_it() {
    let engine = engine(26, EngineOptions::default());
    let prompt = Numbers(4).ids(20);
    let free = engine.answer(request(prompt.clone())).await.unwrap();
    let characters: Vec<char> = free.text.chars().collect();
    assert!(characters.len() > 6, "{:?}", free.text);
    let stop: String = characters[4..6].iter().collect();
    let expected = &free.text[..free.text.find(&stop).unwrap()];
    let stopped =
        engine.answer(Request { stops: vec![stop.clone()], ..request(prompt.clone()) }).await.unwrap();
    assert_eq!(stopped.text, expected);
    assert_eq!(stopped.finish, Finish::StopString(stop));
    assert!(stopped.tokens < free.tokens || free.finish != Finish::Length);
    assert!(stopped.cached_tokens > 0);

    let short = engine.answer(Request { max_tokens: 3, ..request(prompt.clone()) }).await.unwrap();
    assert_eq!((short.tokens, short.finish), (3, Finish::Length));
    let sampled = |seed| {
        let sampling = Sampling { temperature: 1.5, top_p: 0.9, seed };
        engine.answer(Request { sampling, ..request(prompt.clone()) })
    };
    assert_eq!(sampled(1).await.unwrap().text, sampled(1).await.unwrap().text);
    assert_ne!(sampled(1).await.unwrap().text, sampled(2).await.unwrap().text);
}

/// Sends one HTTP request over a plain socket.
async fn http(address: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let body = body.to_string();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned())))
}

/// The chunks of a streamed answer.
fn events(body: &Value) -> Vec<Value> {
    let lines = body.as_str().unwrap().lines().filter_map(|line| line.strip_prefix("data: "));
    let (mut chunks, mut ended) = (Vec::new(), false);
    for line in lines {
        assert!(!ended, "something comes after the end: {line}");
        if line == "[DONE]" {
            ended = true;
        } else {
            chunks.push(serde_json::from_str(line).unwrap());
        }
    }
    assert!(ended, "{body}");
    chunks
}

/// A streamed answer says what the whole one says.
fn check_stream((status, body): &(u16, Value), whole: &Value) {
    assert_eq!(*status, 200);
    let chunks = events(body);
    let text: String =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, whole["choices"][0]["message"]["content"].as_str().unwrap());
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(chunks[chunks.len() - 2]["choices"][0]["finish_reason"], whole["choices"][0]["finish_reason"]);
    assert_eq!(chunks.last().unwrap()["usage"]["total_tokens"], whole["usage"]["total_tokens"]);
}

/// The server's own counters.
async fn check_metrics(address: &str) {
    let (_, metrics) = http(address, "GET", "/metrics", &json!({})).await;
    let metrics = metrics.as_str().unwrap();
    for line in
        ["sealign_serve_answered_total 3", "sealign_serve_prompt_tokens_total 72", "sealign_serve_running 0"]
    {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in {metrics}");
    }
}

/// Each of these bodies gets its status and a message with the word.
async fn check_refusals<Answer: Future<Output = (u16, Value)>>(chat: impl Fn(Value) -> Answer) {
    for (extra, expected, word) in [
        (json!({"model": "other"}), 404, "does not exist"),
        (json!({"n": 2}), 400, "n must be 1"),
        (json!({"temperature": -1}), 400, "temperature must be"),
        (json!({"messages": [{"content": "x"}]}), 400, "role is missing"),
        (json!({"messages": [{"role": "tool", "content": "x"}]}), 400, "no turn for role"),
        (json!({"messages": 3}), 422, ""),
    ] {
        let (status, error) = chat(extra.clone()).await;
        assert!(status == expected || (expected == 422 && status == 400), "{extra}: {status} {error}");
        assert!(error["error"]["message"].as_str().unwrap().contains(word), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_http_side_speaks_chat_completions() {
    let folder = tempfile::tempdir().unwrap();
    let model = model_folder(folder.path(), "tiny", &config("qwen2", 4, 2, true), 27);
    let address_file = folder.path().join("address");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let options = ServeOptions {
        model,
        name: None,
        listen: "127.0.0.1:0".parse().unwrap(),
        address_file: Some(address_file.clone()),
        context: Some(120),
        engine: EngineOptions::default(),
    };
    let server = tokio::spawn(serve(options, async {
        let _ = stopped.await;
    }));
    let address = loop {
        if let Ok(text) = std::fs::read_to_string(&address_file) {
            break text.strip_prefix("http://").unwrap().to_owned();
        }
        assert!(!server.is_finished(), "the server ended");
        tokio::task::yield_now().await;
    };
    let messages = json!([{"role": "user", "content": "hello"}]);
    let chat = |extra: Value| {
        let mut body = json!({"model": "tiny", "messages": messages, "temperature": 0, "max_tokens": 5});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let address = address.clone();
        async move { http(&address, "POST", "/v1/chat/completions", &body).await }
    };
    let (status, answer) = chat(json!({})).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["choices"][0]["message"]["role"], "assistant");
    let usage = &answer["usage"];
    // <|im_start|> user \n hello <|im_end|> \n <|im_start|> assistant \n, one token a byte.
    assert_eq!(usage["prompt_tokens"], 1 + 5 + 5 + 1 + 1 + 1 + 10);
    assert_eq!(
        usage["total_tokens"].as_u64().unwrap(),
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap()
    );
    let (_, again) = chat(json!({})).await;
    assert_eq!(answer["choices"], again["choices"]);

    check_stream(&chat(json!({"stream": true, "stream_options": {"include_usage": true}})).await, &answer);

    let (status, error) = chat(json!({"max_tokens": 100})).await;
    assert_eq!(status, 400);
    assert!(
        error["error"]["message"].as_str().unwrap().contains("maximum context length is 120 tokens"),
        "{error}"
    );
    check_refusals(chat).await;
    assert_eq!(http(&address, "GET", "/health", &json!({})).await.0, 200);
    check_metrics(&address).await;
    let (_, listed) = http(&address, "GET", "/v1/models", &json!({})).await;
    assert_eq!(
        (&listed["data"][0]["id"], &listed["data"][0]["max_model_len"]),
        (&json!("tiny"), &json!(120))
    );
    let (_, counted) = http(&address, "POST", "/tokenize", &json!({"messages": messages})).await;
    assert_eq!(counted["count"], 24);
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
}
