//! Reading a manifest: bounded YAML in, admitted objects out, and errors that name file, document, field and remedy.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use kube::core::DynamicObject;
use sealign_local::admission::{Admission, Refused};
use sealign_local::objects::ObjectKey;
use sealign_local::references;
use sealign_reconcile::port::Kind;
use serde_json::Value;

/// Bytes of a manifest: a thousand times what one needs, and little enough to parse in a moment.
pub const MANIFEST_BYTES_MAX: u64 = 1024 * 1024;
/// Documents of a manifest.
pub const DOCUMENTS_MAX: usize = 100;
/// Nesting of a manifest; the deepest field of ours lies at 8.
const DEPTH_MAX: usize = 32;
/// Values of a manifest.
const NODES_MAX: usize = 100_000;
/// Characters of the YAML reader's words that an error repeats.
const WORDS_MAX: usize = 300;

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("{}: cannot be read; name a YAML file", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file is too large.
    #[error("{}: has more than {MANIFEST_BYTES_MAX} bytes; a manifest names data files instead of holding them", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not text.
    #[error("{}: byte {offset} is not UTF-8; save the file as UTF-8 text", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// The first bad byte.
        offset: usize,
    },
    /// The file is not YAML.
    #[error("{}: document {document}, {place}: {problem}; correct the YAML there", path.display())]
    NotYaml {
        /// The file.
        path: PathBuf,
        /// The document, from 1.
        document: usize,
        /// Line and column.
        place: String,
        /// What the reader says.
        problem: String,
    },
    /// Nothing is in it.
    #[error("{}: holds no object; see manifests/quickstart.yaml for one that does", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Too much is in it.
    #[error("{}: holds {count} documents; split it into files of at most {DOCUMENTS_MAX}", path.display())]
    TooMany {
        /// The file.
        path: PathBuf,
        /// Documents.
        count: usize,
    },
    /// An object is refused.
    #[error("{}", refused.problems.iter().map(|problem| format!("{}: document {document}{name}: {problem}", path.display())).collect::<Vec<_>>().join("\n       "))]
    Refused {
        /// The file.
        path: PathBuf,
        /// The document, from 1.
        document: usize,
        /// Kind and name in parentheses, where they could be read.
        name: String,
        /// What is wrong and what to do.
        refused: Refused,
    },
    /// Two documents are one object.
    #[error("{}: document {document}: metadata.name: {key} is document {first} already; give it another name", path.display())]
    Repeated {
        /// The file.
        path: PathBuf,
        /// The document, from 1.
        document: usize,
        /// The document that has the name.
        first: usize,
        /// The object.
        key: String,
    },
}

/// Reads the objects of a manifest in their order, with defaults filled in.
///
/// # Errors
/// [`ManifestError`].
pub fn read(path: &Path, admission: &Admission) -> Result<Vec<(Kind, DynamicObject)>, ManifestError> {
    let text = read_text(path)?;
    let documents = parse(path, &text)?;
    let mut seen: BTreeMap<ObjectKey, usize> = BTreeMap::new();
    let mut objects = Vec::new();
    for (index, document) in documents.iter().enumerate() {
        let number = index + 1;
        let (kind, object) = admission.read(document).map_err(|refused| ManifestError::Refused {
            path: path.to_owned(),
            document: number,
            name: named(document),
            refused,
        })?;
        let key = key(kind, &object);
        if let Some(first) = seen.insert(key.clone(), number) {
            let key = key.to_string();
            return Err(ManifestError::Repeated { path: path.to_owned(), document: number, first, key });
        }
        objects.push((kind, object));
    }
    Ok(objects)
}

/// Checks that a manifest names only objects that are in it: without a state folder there are no others.
///
/// # Errors
/// [`ManifestError::Refused`].
pub fn check_references(path: &Path, objects: &[(Kind, DynamicObject)]) -> Result<(), ManifestError> {
    let present: BTreeSet<ObjectKey> = objects.iter().map(|(kind, object)| key(*kind, object)).collect();
    for (index, (kind, object)) in objects.iter().enumerate() {
        references::check(*kind, object, &present).map_err(|refused| ManifestError::Refused {
            path: path.to_owned(),
            document: index + 1,
            name: format!(" ({} {})", kind.name(), key(*kind, object).name),
            refused,
        })?;
    }
    Ok(())
}

fn key(kind: Kind, object: &DynamicObject) -> ObjectKey {
    let meta = &object.metadata;
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    ObjectKey { kind, namespace: text(&meta.namespace), name: text(&meta.name) }
}

fn read_text(path: &Path) -> Result<String, ManifestError> {
    let failed = |source| ManifestError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(ManifestError::TooLarge { path: path.to_owned() });
    }
    String::from_utf8(bytes).map_err(|error| ManifestError::NotText {
        path: path.to_owned(),
        offset: error.utf8_error().valid_up_to(),
    })
}

fn parse(path: &Path, text: &str) -> Result<Vec<Value>, ManifestError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_documents: DOCUMENTS_MAX + 1,
        },
        strict_booleans: true,
        with_snippet: false,
    };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let line = error.location().map_or(0, |location| location.line());
        let column = error.location().map_or(0, |location| location.column());
        let problem = error.to_string().lines().next().unwrap_or_default().chars().take(WORDS_MAX).collect();
        ManifestError::NotYaml {
            path: path.to_owned(),
            document: document_of(text, line),
            place: format!("line {line}, column {column}"),
            problem,
        }
    })?;
    match documents.len() {
        0 => Err(ManifestError::Empty { path: path.to_owned() }),
        count if count > DOCUMENTS_MAX => Err(ManifestError::TooMany { path: path.to_owned(), count }),
        _ => Ok(documents),
    }
}

/// The document that holds a line. A `---` before any content begins the first document.
fn document_of(text: &str, line: u64) -> usize {
    let lines = text.lines().take(usize::try_from(line).unwrap_or(usize::MAX));
    let mut has_content = false;
    let mut document = 1;
    for line in lines {
        if line.trim_end() == "---" {
            document += usize::from(has_content);
            has_content = false;
        } else {
            has_content |= !line.trim_start().is_empty() && !line.trim_start().starts_with('#');
        }
    }
    document
}

fn named(document: &Value) -> String {
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str);
    match (text("/kind"), text("/metadata/name")) {
        (Some(kind), Some(name)) => {
            format!(" ({} {})", sealign_local::shape::shown(kind), sealign_local::shape::shown(name))
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_in_their_document() {
        let text = "# notes\n---\na: 1\n---\nb: 2\n---\nc: 3\n";
        let found: Vec<usize> = [3, 5, 7].map(|line| document_of(text, line)).to_vec();
        assert_eq!(found, [1, 2, 3]);
    }
}
