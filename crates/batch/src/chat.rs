//! From messages to prompt text: ChatML, or any Hugging Face chat template.
//!
//! A rendered prompt is a list of [`Piece`]s, control tokens apart from plain text, because message bodies are untrusted: a
//! body that spells `<|im_start|>` stays text. For a template this is kept by *guards*: before rendering, one private-use
//! character is put inside every control-token spelling that a message contains, and taken out again afterwards.

use std::ops::Range;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error as JinjaError, ErrorKind, context};
use serde_json::Value;
use thiserror::Error;

use crate::conversation::Message;
use crate::tojson::tojson;
use crate::tokenizer::Tokenizer;

/// Start of a ChatML turn.
pub const IM_START: &str = "<|im_start|>";
/// End of a ChatML turn.
pub const IM_END: &str = "<|im_end|>";

/// Why messages could not be rendered.
#[derive(Debug, Error)]
pub enum ChatError {
    /// The tokenizer's configuration has no chat template.
    #[error("tokenizer_config.json has no chat_template; add one, or set chatFormat to chatml")]
    NoTemplate,
    /// `tokenizer_config.json` is not JSON.
    #[error("tokenizer_config.json cannot be read: {reason}")]
    Config {
        /// What the parser said.
        reason: String,
    },
    /// The template does not compile, or it raised an exception for these messages.
    #[error("the chat template failed: {reason}")]
    Template {
        /// The engine's message, with the line of the template.
        reason: String,
    },
    /// ChatML has no form for this role.
    #[error("ChatML has no turn for role {role:?}; use system, user or assistant, or give a chat template")]
    Role {
        /// The role that was given.
        role: String,
    },
    /// The rendering of the first turns is not the beginning of the rendering of all turns.
    #[error(
        "the chat template rewrites earlier turns when turn {turn} is added; a template that does so cannot be masked"
    )]
    PrefixChanged {
        /// Index of the message.
        turn: usize,
    },
    /// Loss on a message that the template gives no boundaries for.
    #[error("message {turn} has role {role:?}; with a chat template only assistant messages can carry loss")]
    NotTrainable {
        /// Index of the message.
        turn: usize,
        /// Its role.
        role: String,
    },
    /// A message holds every private-use character of the guard range.
    #[error("a message uses all {count} private-use characters that mark control tokens; remove one of them")]
    NoGuard {
        /// How many were tried.
        count: u32,
    },
}

/// How messages become a prompt.
#[derive(Debug)]
pub enum ChatFormat {
    /// Every message is `<|im_start|>ROLE\nCONTENT<|im_end|>\n`.
    ChatMl {
        /// System text that is inserted when the first message is not a system message.
        default_system: Option<String>,
    },
    /// A Hugging Face template.
    Template(Box<ChatTemplate>),
}

/// A compiled Hugging Face chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    specials: Vec<(String, String)>,
}

/// A piece of a rendered prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A control token, made by the format and never by a message.
    Control(String),
    /// Plain text; adjacent texts are tokenised apart.
    Text(String),
}

/// A rendered conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The pieces in order.
    pub pieces: Vec<Piece>,
    /// For each message that was asked for: the pieces of its content and end-of-turn token.
    pub bodies: Vec<(usize, Range<usize>)>,
}

impl ChatFormat {
    /// ChatML without a default system message.
    pub fn chat_ml() -> Self {
        Self::ChatMl { default_system: None }
    }

    /// Reads `chat_template` (and `bos_token`, `eos_token`) from the bytes of `tokenizer_config.json`.
    pub fn from_tokenizer_config(bytes: &[u8]) -> Result<Self, ChatError> {
        let config: Value =
            serde_json::from_slice(bytes).map_err(|error| ChatError::Config { reason: error.to_string() })?;
        let source = match config.get("chat_template") {
            Some(Value::String(source)) => source.clone(),
            Some(Value::Array(named)) => named
                .iter()
                .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))
                .and_then(|entry| entry.get("template")?.as_str())
                .ok_or(ChatError::NoTemplate)?
                .to_owned(),
            _ => return Err(ChatError::NoTemplate),
        };
        let token = |name: &str| match config.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Object(token)) => {
                token.get("content").and_then(Value::as_str).unwrap_or_default().to_owned()
            }
            _ => String::new(),
        };
        let specials = ["bos_token", "eos_token", "pad_token", "unk_token"]
            .into_iter()
            .map(|name| (name.to_owned(), token(name)))
            .collect();
        Ok(Self::Template(Box::new(ChatTemplate::new(&source, specials)?)))
    }

    /// Renders the messages; `bodies` is filled for the messages whose index is in `wanted`, in ascending order.
    ///
    /// Assistant bodies always begin a piece of their own. So the ids of a prompt are the beginning of the ids of the same
    /// prompt with its answer, also when the answer begins with white space.
    pub fn render(
        &self,
        messages: &[Message],
        wanted: &[usize],
        generation_prompt: bool,
        tokenizer: &Tokenizer,
    ) -> Result<Rendered, ChatError> {
        match self {
            Self::ChatMl { default_system } => {
                render_chat_ml(messages, wanted, generation_prompt, default_system.as_deref())
            }
            Self::Template(template) => template.render(messages, wanted, generation_prompt, tokenizer),
        }
    }
}

fn render_chat_ml(
    messages: &[Message],
    wanted: &[usize],
    generation_prompt: bool,
    default_system: Option<&str>,
) -> Result<Rendered, ChatError> {
    let mut rendered = Rendered::default();
    if let Some(system) = default_system
        && messages.first().is_none_or(|message| message.role != "system")
    {
        push_turn(&mut rendered.pieces, "system", system);
    }
    for (index, message) in messages.iter().enumerate() {
        if !matches!(message.role.as_str(), "system" | "user" | "assistant") {
            return Err(ChatError::Role { role: message.role.clone() });
        }
        let body = push_turn(&mut rendered.pieces, &message.role, &message.content);
        if wanted.contains(&index) {
            rendered.bodies.push((index, body));
        }
    }
    if generation_prompt {
        rendered.pieces.push(Piece::Control(IM_START.to_owned()));
        rendered.pieces.push(Piece::Text("assistant\n".to_owned()));
    }
    Ok(rendered)
}

/// Appends one turn and returns the pieces of its content and end token.
fn push_turn(pieces: &mut Vec<Piece>, role: &str, content: &str) -> Range<usize> {
    pieces.push(Piece::Control(IM_START.to_owned()));
    // Only an assistant body is ever generated after its header; other bodies are tokenised together with it, as the
    // reference tokenizer does with the whole text.
    let start = if role == "assistant" {
        pieces.push(Piece::Text("assistant\n".to_owned()));
        pieces.push(Piece::Text(content.to_owned()));
        pieces.len() - 1
    } else {
        pieces.push(Piece::Text(format!("{role}\n{content}")));
        pieces.len() - 1
    };
    pieces.push(Piece::Control(IM_END.to_owned()));
    let end = pieces.len();
    pieces.push(Piece::Text("\n".to_owned()));
    start..end
}

impl ChatTemplate {
    /// Compiles a template; `specials` are variables such as `bos_token` that it may read.
    pub fn new(source: &str, specials: Vec<(String, String)>) -> Result<Self, ChatError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|error| ChatError::Template { reason: describe(&error) })?;
        environment.set_syntax(syntax);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", |value: minijinja::Value, options: minijinja::value::Kwargs| {
            tojson(&value, &options)
        });
        environment.add_function("raise_exception", |message: String| -> Result<String, JinjaError> {
            Err(JinjaError::new(ErrorKind::InvalidOperation, message))
        });
        // A prompt with today's date would make equal inputs give unequal examples.
        environment.add_function("strftime_now", |_format: String| -> Result<String, JinjaError> {
            Err(JinjaError::new(
                ErrorKind::InvalidOperation,
                "the template asks for the current date, which would make runs differ; write the date into it",
            ))
        });
        // Markers of transformers' own mask; the engine does not know these tags, and the masks here do not need them.
        let mut source = source.to_owned();
        for tag in ["generation", "endgeneration"] {
            for (open, close) in [("{%- ", " -%}"), ("{%- ", " %}"), ("{% ", " -%}"), ("{% ", " %}")] {
                source = source.replace(&format!("{open}{tag}{close}"), "");
            }
        }
        environment
            .add_template_owned("chat", source)
            .map_err(|error| ChatError::Template { reason: describe(&error) })?;
        Ok(Self { environment, specials })
    }

    /// Renders to one text, as `apply_chat_template(tokenize=False)` does; nothing is guarded.
    pub fn render_text(
        &self,
        messages: &[Value],
        tools: Option<&Value>,
        generation_prompt: bool,
    ) -> Result<String, ChatError> {
        let specials: minijinja::Value = self.specials.iter().cloned().collect();
        let template = self
            .environment
            .get_template("chat")
            .map_err(|error| ChatError::Template { reason: describe(&error) })?;
        template
            .render(context! {
                messages => Serde(messages),
                tools => Serde(tools),
                add_generation_prompt => generation_prompt,
                ..specials
            })
            .map_err(|error| ChatError::Template { reason: describe(&error) })
    }

    fn render(
        &self,
        messages: &[Message],
        wanted: &[usize],
        generation_prompt: bool,
        tokenizer: &Tokenizer,
    ) -> Result<Rendered, ChatError> {
        let guard = Guard::choose(messages, tokenizer)?;
        let values: Vec<Value> = messages.iter().map(|message| guard.apply(&message.to_value())).collect();
        let text = self.render_text(&values, None, generation_prompt)?;
        let mut cuts = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            if message.role != "assistant" {
                if wanted.contains(&index) {
                    return Err(ChatError::NotTrainable { turn: index, role: message.role.clone() });
                }
                continue;
            }
            let before = values.get(..index).unwrap_or_default();
            let through = values.get(..=index).unwrap_or_default();
            let start = self.render_text(before, None, true)?;
            let turn = self.render_text(through, None, false)?;
            // A template that opens an assistant turn differently when it is about to generate has no boundary to cut at.
            if !text.starts_with(&start) || !text.starts_with(turn.trim_end()) || turn.len() < start.len() {
                if wanted.contains(&index) {
                    return Err(ChatError::PrefixChanged { turn: index });
                }
                continue;
            }
            cuts.push((index, start.len()..turn.trim_end().len().max(start.len())));
        }
        Ok(guard.split(&text, &cuts, wanted))
    }
}

fn describe(error: &JinjaError) -> String {
    match (error.detail(), error.line()) {
        (Some(detail), Some(line)) => format!("{detail} (line {line})"),
        (Some(detail), None) => detail.to_owned(),
        (None, _) => error.to_string(),
    }
}

/// Number of private-use characters that are tried as guards.
const GUARD_CANDIDATES: u32 = 256;

/// The character that keeps message bodies from spelling control tokens.
struct Guard {
    character: char,
    specials: Vec<String>,
}

impl Guard {
    fn choose(messages: &[Message], tokenizer: &Tokenizer) -> Result<Self, ChatError> {
        let mut specials: Vec<String> = tokenizer.special_tokens().map(|(text, _)| text.to_owned()).collect();
        specials.sort_by_key(|text| std::cmp::Reverse(text.len()));
        let used = |candidate: char| {
            messages.iter().any(|message| {
                message.content.contains(candidate)
                    || message.fields.values().any(|field| field.to_string().contains(candidate))
            })
        };
        (0..GUARD_CANDIDATES)
            .filter_map(|offset| char::from_u32(0x10_F000 + offset))
            .find(|candidate| !used(*candidate))
            .map(|character| Self { character, specials })
            .ok_or(ChatError::NoGuard { count: GUARD_CANDIDATES })
    }

    fn apply(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.apply_text(text)),
            Value::Array(items) => Value::Array(items.iter().map(|item| self.apply(item)).collect()),
            Value::Object(members) => Value::Object(
                members.iter().map(|(name, member)| (name.clone(), self.apply(member))).collect(),
            ),
            other => other.clone(),
        }
    }

    fn apply_text(&self, text: &str) -> String {
        let mut guarded = text.to_owned();
        for special in &self.specials {
            if let Some(first) = special.chars().next()
                && guarded.contains(special.as_str())
            {
                let (head, tail) = special.split_at(first.len_utf8());
                guarded = guarded.replace(special.as_str(), &format!("{head}{}{tail}", self.character));
            }
        }
        guarded
    }

    /// Cuts the text at control tokens and at the given ranges, and takes the guards out.
    fn split(&self, text: &str, cuts: &[(usize, Range<usize>)], wanted: &[usize]) -> Rendered {
        let mut bounds: Vec<usize> = cuts.iter().flat_map(|(_, cut)| [cut.start, cut.end]).collect();
        bounds.push(text.len());
        bounds.sort_unstable();
        bounds.dedup();
        let mut pieces = Vec::new();
        let mut piece_at = std::collections::BTreeMap::new();
        let mut from = 0;
        for bound in bounds {
            piece_at.insert(from, pieces.len());
            self.split_controls(text.get(from..bound).unwrap_or_default(), &mut pieces);
            from = bound;
        }
        piece_at.insert(text.len(), pieces.len());
        let bodies = cuts
            .iter()
            .filter(|(index, _)| wanted.contains(index))
            .filter_map(|(index, cut)| Some((*index, *piece_at.get(&cut.start)?..*piece_at.get(&cut.end)?)))
            .collect();
        Rendered { pieces, bodies }
    }

    fn split_controls(&self, text: &str, pieces: &mut Vec<Piece>) {
        let mut rest = text;
        while !rest.is_empty() {
            let next = self
                .specials
                .iter()
                .filter_map(|special| Some((rest.find(special.as_str())?, special)))
                .min_by_key(|(at, special)| (*at, std::cmp::Reverse(special.len())));
            let Some((at, special)) = next else {
                pieces.push(Piece::Text(rest.replace(self.character, "")));
                return;
            };
            let (head, tail) = rest.split_at(at);
            if !head.is_empty() {
                pieces.push(Piece::Text(head.replace(self.character, "")));
            }
            pieces.push(Piece::Control(special.clone()));
            rest = tail.get(special.len()..).unwrap_or_default();
        }
    }
}
