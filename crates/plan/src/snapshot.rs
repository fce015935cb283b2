//! What a decision rests on: one object, and the answers to the questions that its kind asks about the world.
//!
//! A kind does not hand a list of its reads to anybody. It decides as if everything were known; the first thing that is
//! not makes it stop with [`Unread`], the caller looks it up, and the decision is made again. So what a kind reads stands
//! beside what it does with it, the caller's `observe` is written once for all kinds, and both stay free of I/O. Decisions
//! cost microseconds and reads milliseconds: deciding several times is free.
//!
//! Kinds ask for Jobs before they ask the store about the records that those Jobs make, so a Job that is seen as over has
//! all its records in the answers.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use kube::core::DynamicObject;
use serde::de::DeserializeOwned;

use crate::Kind;

/// A question about the world.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Query {
    /// The object of this kind and name in the namespace of the snapshot's object.
    Object(Kind, String),
    /// Objects of this kind whose owner label names the snapshot's object.
    Children(Kind),
    /// A document of the store, by key.
    Document(String),
    /// Whether an object of the store exists, by key.
    Exists(String),
    /// Keys below a prefix of the store.
    Names(String),
}

/// What the world says.
#[derive(Clone, Debug)]
pub enum Answer {
    /// To [`Query::Object`].
    Object(Option<Box<DynamicObject>>),
    /// To [`Query::Children`].
    Children(Vec<DynamicObject>),
    /// To [`Query::Document`].
    Document(Option<Bytes>),
    /// To [`Query::Exists`].
    Exists(bool),
    /// To [`Query::Names`].
    Names(Vec<String>),
}

/// What has to be looked up before a decision can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread(pub Vec<Query>);

/// Why no decision can be made from a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum NoDecision {
    /// Something has to be looked up first.
    #[error("{} answers are missing", .0.0.len())]
    Unread(Unread),
    /// A document of the store is not what its key promises.
    #[error(
        "`{key}` in the store is not readable as {expected}: it was changed by hand or written by another version"
    )]
    Document {
        /// Its key.
        key: String,
        /// What it should be.
        expected: &'static str,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// An object cannot be built, a fault of ours.
    #[error("{what} cannot be written as JSON")]
    Encode {
        /// What was to be written.
        what: &'static str,
        /// What the writer says.
        #[source]
        source: serde_json::Error,
    },
}

impl From<Unread> for NoDecision {
    fn from(unread: Unread) -> Self {
        Self::Unread(unread)
    }
}

/// One object and what is known of its surroundings.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The kind of the object.
    pub kind: Kind,
    /// The object itself, as it was read.
    pub object: DynamicObject,
    /// When its status was last written by this process.
    pub reported: Option<Timestamp>,
    answers: BTreeMap<Query, Answer>,
}

impl Snapshot {
    /// A snapshot that knows nothing but the object.
    pub fn new(kind: Kind, object: DynamicObject, reported: Option<Timestamp>) -> Self {
        Self { kind, object, reported, answers: BTreeMap::new() }
    }

    /// Adds an answer.
    pub fn insert(&mut self, query: Query, answer: Answer) {
        self.answers.insert(query, answer);
    }

    /// Answers so far.
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether nothing was asked yet.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// Fails with those of `queries` that have no answer, so that they are looked up together.
    pub fn need(&self, queries: impl IntoIterator<Item = Query>) -> Result<(), Unread> {
        let missing: Vec<Query> =
            queries.into_iter().filter(|query| !self.answers.contains_key(query)).collect();
        if missing.is_empty() { Ok(()) } else { Err(Unread(missing)) }
    }

    /// The object of this kind and name; one that is being deleted counts as there, see [`is_leaving`].
    pub fn object(&self, kind: Kind, name: &str) -> Result<Option<&DynamicObject>, Unread> {
        let query = Query::Object(kind, name.to_owned());
        match self.answers.get(&query) {
            Some(Answer::Object(object)) => Ok(object.as_deref()),
            _ => Err(Unread(vec![query])),
        }
    }

    /// Objects of this kind that carry our object's UID as their owner label.
    pub fn children(&self, kind: Kind) -> Result<&[DynamicObject], Unread> {
        match self.answers.get(&Query::Children(kind)) {
            Some(Answer::Children(objects)) => Ok(objects),
            _ => Err(Unread(vec![Query::Children(kind)])),
        }
    }

    /// The bytes of a document.
    pub fn bytes(&self, key: &str) -> Result<Option<&Bytes>, Unread> {
        let query = Query::Document(key.to_owned());
        match self.answers.get(&query) {
            Some(Answer::Document(bytes)) => Ok(bytes.as_ref()),
            _ => Err(Unread(vec![query])),
        }
    }

    /// A document, parsed.
    pub fn document<T: DeserializeOwned>(
        &self,
        key: &str,
        expected: &'static str,
    ) -> Result<Option<T>, NoDecision> {
        let Some(bytes) = self.bytes(key)? else { return Ok(None) };
        serde_json::from_slice(bytes).map(Some).map_err(|source| NoDecision::Document {
            key: key.to_owned(),
            expected,
            source,
        })
    }

    /// Whether the store holds `key`.
    pub fn exists(&self, key: &str) -> Result<bool, Unread> {
        let query = Query::Exists(key.to_owned());
        match self.answers.get(&query) {
            Some(Answer::Exists(exists)) => Ok(*exists),
            _ => Err(Unread(vec![query])),
        }
    }

    /// Keys below `prefix`, sorted.
    pub fn names(&self, prefix: &str) -> Result<&[String], Unread> {
        let query = Query::Names(prefix.to_owned());
        match self.answers.get(&query) {
            Some(Answer::Names(names)) => Ok(names),
            _ => Err(Unread(vec![query])),
        }
    }
}

/// Whether an object is being deleted: absent, and to be waited for.
pub fn is_leaving(object: &DynamicObject) -> bool {
    object.metadata.deletion_timestamp.is_some()
}
