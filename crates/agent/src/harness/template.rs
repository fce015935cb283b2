//! Prompt templates: plain text with `{name}` places, so that an operator can mount other words.

/// A template that cannot be filled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "prompt template `{template}` has the place `{{{place}}}`, which nothing fills; known places: {known}"
)]
pub struct TemplateError {
    /// Which template.
    pub template: &'static str,
    /// The place.
    pub place: String,
    /// What would be filled, separated by commas.
    pub known: String,
}

/// Longest name of a place; a longer text between braces is text.
const PLACE_CHARS_MAX: usize = 40;

/// Replaces each `{name}` by its value, once and from left to right: a value that holds braces stays as it is. Braces
/// around anything but a lower-case name are text.
pub(crate) fn fill(
    name: &'static str,
    template: &str,
    values: &[(&str, &str)],
) -> Result<String, TemplateError> {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        let (before, from_brace) = rest.split_at(open);
        out.push_str(before);
        let inside = from_brace.get(1..).unwrap_or_default();
        let place = inside.split_once('}').map(|(place, _)| place).filter(|place| is_place(place));
        let Some(place) = place else {
            out.push('{');
            rest = inside;
            continue;
        };
        let Some((_, value)) = values.iter().find(|(known, _)| *known == place) else {
            let known = values.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", ");
            return Err(TemplateError { template: name, place: place.to_owned(), known });
        };
        out.push_str(value);
        rest = inside.get(place.len() + 1..).unwrap_or_default();
    }
    out.push_str(rest);
    Ok(out)
}

fn is_place(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= PLACE_CHARS_MAX
        && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_looks_like_a_place_is_not_filled_again() {
        let filled = fill("task", "{a} and {b}", &[("a", "{b}"), ("b", "x")]);
        assert_eq!(filled.as_deref(), Ok("{b} and x"));
    }

    #[test]
    fn braces_around_other_text_stay() {
        let filled = fill("task", "{} {A} {a b} ${X} {a", &[("a", "!")]);
        assert_eq!(filled.as_deref(), Ok("{} {A} {a b} ${X} {a"));
    }

    #[test]
    fn an_unknown_place_names_the_template_and_what_is_known() {
        let error = fill("task", "{isue}", &[("issue", "x")]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("`task`") && text.contains("`{isue}`") && text.contains("issue"), "{text}");
    }
}
