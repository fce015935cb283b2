//! `str_replace_editor`: the five commands over the environment's files (specs 1.3 and 1.7).
//!
//! Every failure is an ordinary observation that starts with `ERROR:`; what the agent sees is [`Words`]' business.

mod words;

use std::collections::BTreeMap;

use sealign_trajectory::key::normalise_path;
use serde_json::Value;

use self::words::Words;
use super::call::EditRequest;
use super::profile::Profile;
use crate::environment::{DirEntry, Environment, EnvironmentError, FileRead};

/// Largest file that is edited or shown, in bytes.
const FILE_BYTES_MAX: usize = 10 * 1024 * 1024;
/// Earlier versions kept of a file, and files that have any: an attempt must not grow without bound.
const VERSIONS_MAX: usize = 10;
const VERSIONED_FILES_MAX: usize = 200;
/// Lines shown before and after an edit.
const SNIPPET_LINES: usize = 4;
/// Levels and names of a directory that are shown.
const LISTED_LEVELS: usize = 2;
const LISTED_ENTRIES_MAX: usize = 2_000;
/// Line numbers that an ambiguous match names.
const NAMED_LINES_MAX: usize = 20;

/// The editor of one attempt.
#[derive(Clone, Debug)]
pub struct Editor {
    words: Words,
    workdir: String,
    allows_relative: bool,
    versions: BTreeMap<String, Vec<String>>,
}

/// What goes wrong in an edit: a text for the agent, or the environment itself.
enum Trouble {
    Agent(String),
    Environment(EnvironmentError),
}

impl From<EnvironmentError> for Trouble {
    fn from(error: EnvironmentError) -> Self {
        match error {
            EnvironmentError::Refused(reason) => Self::Agent(reason),
            EnvironmentError::Limit(_) | EnvironmentError::Lost(_) => Self::Environment(error),
        }
    }
}

/// A path as the agent wrote it, normalised, and below the task root.
struct Place {
    shown: String,
    relative: String,
}

impl Editor {
    /// An editor whose task root is `workdir`.
    pub fn new(profile: Profile, workdir: &str) -> Self {
        Self {
            words: Words::of(profile),
            workdir: normalise_path(workdir),
            allows_relative: profile.is_compact(),
            versions: BTreeMap::new(),
        }
    }

    /// Does what is asked and says what the agent sees.
    ///
    /// # Errors
    /// [`EnvironmentError::Limit`] and [`EnvironmentError::Lost`] only.
    pub async fn act(
        &mut self,
        request: &EditRequest,
        environment: &mut dyn Environment,
    ) -> Result<String, EnvironmentError> {
        match self.try_act(request, environment).await {
            Ok(text) => Ok(self.words.clip(&text)),
            Err(Trouble::Agent(text)) => Ok(self.words.clip(&format!("ERROR:\n{text}"))),
            Err(Trouble::Environment(error)) => Err(error),
        }
    }

    async fn try_act(
        &mut self,
        request: &EditRequest,
        environment: &mut dyn Environment,
    ) -> Result<String, Trouble> {
        let place = self.place(&request.path)?;
        match request.command.as_str() {
            "view" => self.view(request, &place, environment).await,
            "create" => self.create(request, &place, environment).await,
            "str_replace" => self.str_replace(request, &place, environment).await,
            "insert" => self.insert(request, &place, environment).await,
            _ => self.undo(&place, environment).await,
        }
    }

    fn place(&self, path: &str) -> Result<Place, Trouble> {
        let shown = normalise_path(path.trim());
        if !path.trim_start().starts_with('/') {
            if self.allows_relative && !shown.split('/').any(|part| part == "..") {
                let relative = if shown == "." { String::new() } else { shown.clone() };
                return Ok(Place { shown, relative });
            }
            return Err(Trouble::Agent(self.words.not_absolute(&shown, &self.workdir)));
        }
        let below =
            if self.workdir == "/" { shown.strip_prefix('/') } else { shown.strip_prefix(&self.workdir) };
        match below {
            Some("") => Ok(Place { shown, relative: String::new() }),
            Some(rest) if self.workdir == "/" => Ok(Place { relative: rest.to_owned(), shown }),
            Some(rest) if rest.starts_with('/') => {
                Ok(Place { relative: rest.trim_start_matches('/').to_owned(), shown })
            }
            _ => Err(Trouble::Agent(self.words.outside(&shown, &self.workdir))),
        }
    }

    async fn view(
        &self,
        request: &EditRequest,
        place: &Place,
        environment: &mut dyn Environment,
    ) -> Result<String, Trouble> {
        match environment.read_file(&place.relative, FILE_BYTES_MAX).await? {
            FileRead::Missing => Err(Trouble::Agent(self.words.missing(&place.shown))),
            FileRead::Directory if request.view_range.is_some() => {
                Err(Trouble::Agent(self.words.bad_range("it does not apply to a directory")))
            }
            FileRead::Directory => {
                let entries =
                    environment.list_dir(&place.relative, LISTED_LEVELS, LISTED_ENTRIES_MAX).await?;
                Ok(self.words.directory(&place.shown, &visible(&entries), hidden_at_top(&entries)))
            }
            FileRead::File { content, total_bytes } => {
                let text = self.text(&place.shown, content, total_bytes)?;
                let lines: Vec<&str> = text.split('\n').collect();
                let (first, last) = match &request.view_range {
                    Some(range) => view_range(range, lines.len())
                        .map_err(|problem| Trouble::Agent(self.words.bad_range(&problem)))?,
                    None => (1, lines.len()),
                };
                let shown = lines.get(first - 1..last).unwrap_or_default();
                Ok(self.words.view(&place.shown, shown, first))
            }
        }
    }

    async fn create(
        &mut self,
        request: &EditRequest,
        place: &Place,
        environment: &mut dyn Environment,
    ) -> Result<String, Trouble> {
        let Some(text) = &request.file_text else { return Err(self.parameter("file_text", request)) };
        match environment.read_file(&place.relative, 0).await? {
            FileRead::Missing => {}
            FileRead::File { .. } => return Err(Trouble::Agent(self.words.exists(&place.shown))),
            FileRead::Directory => return Err(Trouble::Agent(self.words.is_directory(&place.shown))),
        }
        environment.write_file(&place.relative, text.as_bytes()).await?;
        Ok(self.words.created(&place.shown))
    }

    async fn str_replace(
        &mut self,
        request: &EditRequest,
        place: &Place,
        environment: &mut dyn Environment,
    ) -> Result<String, Trouble> {
        let Some(old) = request.old_str.as_deref().filter(|old| !old.is_empty()) else {
            return Err(self.parameter("old_str", request));
        };
        let new = request.new_str.as_deref().unwrap_or_default();
        if new == old {
            return Err(Trouble::Agent(self.words.no_change()));
        }
        let text = self.read(place, environment).await?;
        let found: Vec<usize> = text.match_indices(old).map(|(at, _)| at).take(NAMED_LINES_MAX).collect();
        let line_of = |at: usize| text.get(..at).unwrap_or_default().matches('\n').count();
        let at = match found.as_slice() {
            [] => return Err(Trouble::Agent(self.words.not_found(old, &place.shown))),
            [at] => *at,
            several => {
                let lines: Vec<usize> = several.iter().map(|at| line_of(*at) + 1).collect();
                return Err(Trouble::Agent(self.words.not_unique(old, &lines)));
            }
        };
        let edited = text.replacen(old, new, 1);
        let line = line_of(at);
        self.write(place, text, &edited, environment).await?;
        Ok(self.edited(&place.shown, &edited, line, line + new.matches('\n').count()))
    }

    async fn insert(
        &mut self,
        request: &EditRequest,
        place: &Place,
        environment: &mut dyn Environment,
    ) -> Result<String, Trouble> {
        let Some(after) = request.insert_line else { return Err(self.parameter("insert_line", request)) };
        let Some(new) = &request.new_str else { return Err(self.parameter("new_str", request)) };
        let text = self.read(place, environment).await?;
        let lines: Vec<&str> = text.split('\n').collect();
        let in_range = usize::try_from(after).ok().filter(|after| *after <= lines.len());
        let Some(after) = in_range else {
            return Err(Trouble::Agent(self.words.bad_line(after, lines.len())));
        };
        let (before, behind) = lines.split_at(after);
        let inserted = new.split('\n').count();
        let edited: Vec<&str> =
            before.iter().copied().chain(new.split('\n')).chain(behind.iter().copied()).collect();
        let edited = edited.join("\n");
        self.write(place, text, &edited, environment).await?;
        Ok(self.edited(&place.shown, &edited, after, after + inserted - 1))
    }

    async fn undo(&mut self, place: &Place, environment: &mut dyn Environment) -> Result<String, Trouble> {
        let Some(earlier) = self.versions.get_mut(&place.relative).and_then(Vec::pop) else {
            return Err(Trouble::Agent(self.words.no_history(&place.shown)));
        };
        environment.write_file(&place.relative, earlier.as_bytes()).await?;
        let lines: Vec<&str> = earlier.split('\n').collect();
        Ok(self.words.undone(&place.shown, &lines))
    }

    async fn read(&self, place: &Place, environment: &mut dyn Environment) -> Result<String, Trouble> {
        match environment.read_file(&place.relative, FILE_BYTES_MAX).await? {
            FileRead::Missing => Err(Trouble::Agent(self.words.missing(&place.shown))),
            FileRead::Directory => Err(Trouble::Agent(self.words.is_directory(&place.shown))),
            FileRead::File { content, total_bytes } => self.text(&place.shown, content, total_bytes),
        }
    }

    fn text(&self, shown: &str, content: Vec<u8>, total_bytes: u64) -> Result<String, Trouble> {
        if total_bytes > FILE_BYTES_MAX as u64 {
            return Err(Trouble::Agent(self.words.too_large(shown)));
        }
        match String::from_utf8(content) {
            Ok(text) if !text.contains('\0') => Ok(text),
            _ => Err(Trouble::Agent(self.words.binary(shown))),
        }
    }

    async fn write(
        &mut self,
        place: &Place,
        before: String,
        after: &str,
        environment: &mut dyn Environment,
    ) -> Result<(), Trouble> {
        environment.write_file(&place.relative, after.as_bytes()).await?;
        if self.versions.len() >= VERSIONED_FILES_MAX && !self.versions.contains_key(&place.relative) {
            self.versions.pop_first();
        }
        let versions = self.versions.entry(place.relative.clone()).or_default();
        versions.push(before);
        if versions.len() > VERSIONS_MAX {
            versions.remove(0);
        }
        Ok(())
    }

    /// What the agent sees after an edit of the lines `first` to `last`, counted from 0.
    fn edited(&self, shown: &str, text: &str, first: usize, last: usize) -> String {
        let lines: Vec<&str> = text.split('\n').collect();
        let start = first.saturating_sub(SNIPPET_LINES);
        let end = (last + SNIPPET_LINES + 1).min(lines.len());
        self.words.edited(shown, lines.get(start..end).unwrap_or_default(), start + 1)
    }

    fn parameter(&self, name: &str, request: &EditRequest) -> Trouble {
        Trouble::Agent(self.words.parameter_missing(name, &request.command))
    }
}

/// Reads `[first, last]` against a file of `count` lines, both counted from 1 and included.
fn view_range(range: &[Value], count: usize) -> Result<(usize, usize), String> {
    let [first, last] = range else { return Err("it must be a list of two integers".to_owned()) };
    let (Some(first), Some(last)) = (first.as_i64(), last.as_i64()) else {
        return Err("it must be a list of two integers".to_owned());
    };
    let first = match usize::try_from(first) {
        Ok(first) if (1..=count).contains(&first) => first,
        _ => return Err(format!("its first line must be from 1 to {count}, the number of lines")),
    };
    if last == -1 {
        return Ok((first, count));
    }
    match usize::try_from(last) {
        Ok(last) if last > count => {
            Err(format!("its last line must be at most {count}, the number of lines"))
        }
        Ok(last) if last >= first => Ok((first, last)),
        _ => Err("its last line must be -1 or not before its first".to_owned()),
    }
}

fn is_hidden(path: &str) -> bool {
    path.split('/').any(|part| part.starts_with('.'))
}

/// Paths without hidden ones; directories end in a slash.
fn visible(entries: &[DirEntry]) -> Vec<String> {
    let shown = entries.iter().filter(|entry| !is_hidden(&entry.path));
    shown.map(|entry| format!("{}{}", entry.path, if entry.is_directory { "/" } else { "" })).collect()
}

fn hidden_at_top(entries: &[DirEntry]) -> usize {
    entries.iter().filter(|entry| is_hidden(&entry.path) && !entry.path.contains('/')).count()
}
