//! The names, labels and annotations that an API server accepts.
//!
//! They are checked here too, so that an object that works embedded does not fail on a cluster.

use kube::core::DynamicObject;

/// Longest name of an object: a DNS subdomain.
const NAME_MAX: usize = 253;
/// Longest label value, and longest name part of a label key.
const LABEL_MAX: usize = 63;
/// Bytes of all annotations together.
const ANNOTATION_BYTES_MAX: usize = 256 * 1024;

/// Checks the metadata of an object.
///
/// # Errors
/// One sentence that names the field and the remedy.
pub fn check(object: &DynamicObject) -> Result<(), String> {
    let meta = &object.metadata;
    name("metadata.name", meta.name.as_deref().unwrap_or_default(), NAME_MAX)?;
    if let Some(namespace) = &meta.namespace {
        name("metadata.namespace", namespace, LABEL_MAX)?;
    }
    for (key, value) in meta.labels.iter().flatten() {
        label_key("metadata.labels", key)?;
        label_value(key, value)?;
    }
    let mut bytes = 0;
    for (key, value) in meta.annotations.iter().flatten() {
        label_key("metadata.annotations", key)?;
        bytes += key.len() + value.len();
    }
    if bytes > ANNOTATION_BYTES_MAX {
        return Err(format!(
            "metadata.annotations: {bytes} bytes, at most {ANNOTATION_BYTES_MAX} are allowed"
        ));
    }
    Ok(())
}

/// Checks a DNS name: parts of lower-case letters, digits and `-`, joined by dots.
///
/// # Errors
/// One sentence that names `field` and the remedy.
pub fn name(field: &str, text: &str, length_max: usize) -> Result<(), String> {
    if text.is_empty() {
        return Err(format!("{field}: is empty; give a name of lower-case letters, digits and `-`"));
    }
    if text.len() > length_max {
        return Err(format!("{field}: has {} characters; use at most {length_max}", text.len()));
    }
    if text.split('.').all(is_label) {
        return Ok(());
    }
    let shown: String = text.chars().take(60).collect();
    Err(format!(
        "{field}: `{}` is not a name; use lower-case letters, digits and `-`, with a letter or digit at both ends",
        shown.escape_debug()
    ))
}

fn is_label(part: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    part.bytes().all(inner) && !part.is_empty() && !part.starts_with('-') && !part.ends_with('-')
}

fn is_qualified(part: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && part.len() <= LABEL_MAX
        && edge(part.bytes().next())
        && edge(part.bytes().next_back())
}

fn label_key(field: &str, key: &str) -> Result<(), String> {
    let (prefix, part) = key.split_once('/').map_or((None, key), |(prefix, part)| (Some(prefix), part));
    if is_qualified(part) && prefix.is_none_or(|prefix| prefix.split('.').all(is_label)) {
        return Ok(());
    }
    let shown: String = key.chars().take(80).collect();
    Err(format!(
        "{field}: `{}` is not a key; write it like `example.com/name`, at most {LABEL_MAX} characters after the slash",
        shown.escape_debug()
    ))
}

fn label_value(key: &str, value: &str) -> Result<(), String> {
    if value.is_empty() || is_qualified(value) {
        return Ok(());
    }
    Err(format!(
        "metadata.labels.{key}: the value must have at most {LABEL_MAX} letters, digits, `-`, `_` or `.`, with a letter or digit at both ends"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_their_place_are_refused_with_the_rule() {
        for text in ["../x", "a/b", "A", "-a", "a-", "", "a..b", "é", "a b"] {
            let problem = name("metadata.name", text, NAME_MAX).unwrap_err();
            assert!(problem.starts_with("metadata.name: ") && problem.contains("letters"), "{problem}");
        }
        assert!(name("metadata.name", &"a".repeat(254), NAME_MAX).unwrap_err().contains("at most 253"));
        name("metadata.name", "a.b-9", NAME_MAX).unwrap();
    }

    #[test]
    fn labels_follow_the_api_servers_rule() {
        label_key("metadata.labels", "sealign.dev/zone").unwrap();
        label_key("metadata.labels", "a/b/c").unwrap_err();
        label_value("k", "Sand_box.1").unwrap();
        label_value("k", &"x".repeat(64)).unwrap_err();
        label_value("k", "a b").unwrap_err();
    }
}
