//! Reading unified diffs. Everything is bounded before it is stored, and anything not understood is an error.

/// Bytes of a patch at most. Real fixes are a few kilobytes; the limit is what a sandbox may hand out.
pub const PATCH_BYTES_MAX: usize = 1024 * 1024;
/// Files of a patch at most.
const FILES_MAX: usize = 1_000;

/// A parsed patch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// One block each, in the patch's order.
    pub files: Vec<FilePatch>,
}

/// What a patch does to one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePatch {
    /// Path before, without `a/`; `None` for a new file.
    pub old_path: Option<String>,
    /// Path after, without `b/`; `None` for a deleted file.
    pub new_path: Option<String>,
    /// Changes in ascending order.
    pub hunks: Vec<Hunk>,
}

impl FilePatch {
    /// The path after, or before when the file is deleted.
    pub fn path(&self) -> &str {
        self.new_path.as_deref().or(self.old_path.as_deref()).unwrap_or("")
    }
}

/// One change with the lines around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hunk {
    /// First line before, from 1; the line before the hunk when `old_count` is 0.
    pub old_start: usize,
    /// Lines before.
    pub old_count: usize,
    /// First line after, from 1.
    pub new_start: usize,
    /// Lines after.
    pub new_count: usize,
    /// Lines of both sides in order.
    pub lines: Vec<HunkLine>,
}

/// A line of a hunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HunkLine {
    /// Which side it is on.
    pub kind: LineKind,
    /// Text without mark and line break.
    pub text: String,
    /// It is the last of its file and has no line break.
    pub lacks_newline: bool,
}

/// Which side a line is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// Both.
    Context,
    /// Before only.
    Removed,
    /// After only.
    Added,
}

/// A text that is not a patch that we apply.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Too long.
    #[error("the patch has {0} bytes: at most {PATCH_BYTES_MAX} are read")]
    TooLong(usize),
    /// Too many files.
    #[error("the patch touches more than {FILES_MAX} files")]
    TooManyFiles,
    /// Something else than git's form.
    #[error("line {line}: {problem}")]
    Syntax {
        /// 1-based.
        line: usize,
        /// What was expected there.
        problem: &'static str,
    },
    /// Something that is refused.
    #[error("line {line}: {what} cannot be applied: only changes of text files are")]
    Refused {
        /// 1-based.
        line: usize,
        /// What the patch asks for.
        what: &'static str,
    },
}

impl Patch {
    /// Reads a patch. The empty text is the empty patch.
    ///
    /// # Errors
    /// [`ParseError`] for anything that is not a git-style unified diff of text files within the bounds.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.len() > PATCH_BYTES_MAX {
            return Err(ParseError::TooLong(text.len()));
        }
        let mut reader =
            Reader { lines: text.strip_suffix('\n').unwrap_or(text).split('\n').collect(), at: 0 };
        let mut files = Vec::new();
        if text.is_empty() {
            return Ok(Self { files });
        }
        while reader.peek().is_some() {
            if files.len() == FILES_MAX {
                return Err(ParseError::TooManyFiles);
            }
            files.push(reader.file()?);
        }
        Ok(Self { files })
    }
}

struct Reader<'a> {
    lines: Vec<&'a str>,
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.lines.get(self.at).copied()
    }

    fn syntax(&self, problem: &'static str) -> ParseError {
        ParseError::Syntax { line: self.at + 1, problem }
    }

    fn refused(&self, what: &'static str) -> ParseError {
        ParseError::Refused { line: self.at + 1, what }
    }

    fn file(&mut self) -> Result<FilePatch, ParseError> {
        let Some(names) = self.peek().and_then(|line| line.strip_prefix("diff --git ")) else {
            return Err(self.syntax("expected `diff --git a/PATH b/PATH`"));
        };
        let mut header = Header { path: same_name(names), ..Header::default() };
        self.at += 1;
        while let Some(line) = self.peek() {
            if line.starts_with("diff --git ") || line.starts_with("@@ ") {
                break;
            }
            self.header_line(line, &mut header)?;
            self.at += 1;
        }
        let mut hunks = Vec::new();
        while self.peek().is_some_and(|line| line.starts_with("@@ ")) {
            hunks.push(self.hunk()?);
        }
        self.finish(header, hunks)
    }

    fn header_line(&self, line: &str, header: &mut Header) -> Result<(), ParseError> {
        let has = |prefix: &str| line.starts_with(prefix);
        if let Some(mode) = line.strip_prefix("new file mode ") {
            header.is_new = true;
            return self.mode(mode);
        }
        if let Some(mode) = line.strip_prefix("deleted file mode ") {
            header.is_deleted = true;
            return self.mode(mode);
        }
        if let Some(name) = line.strip_prefix("--- ") {
            header.old = Some(self.name(name, "a/")?);
        } else if let Some(name) = line.strip_prefix("+++ ") {
            header.new = Some(self.name(name, "b/")?);
        } else if has("old mode ") || has("new mode ") {
            return Err(self.refused("a change of mode"));
        } else if has("rename ") || has("copy ") || has("similarity ") || has("dissimilarity ") {
            return Err(self.refused("a rename or copy"));
        } else if has("GIT binary patch") || has("Binary files ") {
            return Err(self.refused("a change of a binary file"));
        } else if !has("index ") {
            return Err(self.syntax("expected a header line of git, `--- PATH`, `+++ PATH` or `@@`"));
        }
        Ok(())
    }

    fn mode(&self, mode: &str) -> Result<(), ParseError> {
        match mode {
            "100644" | "100755" => Ok(()),
            "120000" => Err(self.refused("a symbolic link")),
            "160000" => Err(self.refused("a submodule")),
            _ => Err(self.syntax("unknown file mode")),
        }
    }

    fn name(&self, text: &str, prefix: &str) -> Result<Side, ParseError> {
        let text = text.strip_suffix('\t').unwrap_or(text);
        if text == "/dev/null" {
            return Ok(Side::DevNull);
        }
        let name = unquote(text).ok_or_else(|| self.syntax("malformed quoted path"))?;
        let path =
            name.strip_prefix(prefix).ok_or_else(|| self.syntax("expected a path below `a/` or `b/`"))?;
        Ok(Side::Path(path.to_owned()))
    }

    fn finish(&self, header: Header, hunks: Vec<Hunk>) -> Result<FilePatch, ParseError> {
        let (old_path, new_path) = match (header.old, header.new) {
            (Some(old), Some(new)) => (old.path(), new.path()),
            (None, None) if hunks.is_empty() => {
                let Some(path) = header.path else {
                    return Err(self.syntax("the two paths of `diff --git` differ"));
                };
                if !header.is_new && !header.is_deleted {
                    return Err(self.syntax("a block without a change"));
                }
                ((!header.is_new).then(|| path.clone()), (!header.is_deleted).then_some(path))
            }
            _ => return Err(self.syntax("expected both `---` and `+++`")),
        };
        let kinds_agree = header.is_new == old_path.is_none() && header.is_deleted == new_path.is_none();
        if !kinds_agree || (old_path.is_none() && new_path.is_none()) {
            return Err(self.syntax("the file modes and `/dev/null` contradict each other"));
        }
        if let (Some(old), Some(new)) = (&old_path, &new_path)
            && old != new
        {
            return Err(self.refused("a rename or copy"));
        }
        Ok(FilePatch { old_path, new_path, hunks })
    }

    fn hunk(&mut self) -> Result<Hunk, ParseError> {
        let header = self.peek().and_then(hunk_header);
        let Some([old_start, old_count, new_start, new_count]) = header else {
            return Err(self.syntax("expected `@@ -START,COUNT +START,COUNT @@`"));
        };
        self.at += 1;
        let mut lines: Vec<HunkLine> = Vec::new();
        let (mut old_open, mut new_open) = (old_count, new_count);
        while old_open > 0 || new_open > 0 {
            let line = self.peek().ok_or_else(|| self.syntax("the hunk ends too early"))?;
            // Some editors and mail programs cut the single space of an empty context line.
            let (mark, text) = line.split_at_checked(1).unwrap_or((" ", ""));
            let kind = match mark {
                " " => LineKind::Context,
                "-" => LineKind::Removed,
                "+" => LineKind::Added,
                "\\" => {
                    self.no_newline(&mut lines)?;
                    continue;
                }
                _ => return Err(self.syntax("expected a line that starts with a space, `-`, `+` or `\\`")),
            };
            let too_long = || self.syntax("the hunk has more lines than its header says");
            if kind != LineKind::Added {
                old_open = old_open.checked_sub(1).ok_or_else(too_long)?;
            }
            if kind != LineKind::Removed {
                new_open = new_open.checked_sub(1).ok_or_else(too_long)?;
            }
            lines.push(HunkLine { kind, text: text.to_owned(), lacks_newline: false });
            self.at += 1;
        }
        if self.peek().is_some_and(|line| line.starts_with('\\')) {
            self.no_newline(&mut lines)?;
        }
        Ok(Hunk { old_start, old_count, new_start, new_count, lines })
    }

    fn no_newline(&mut self, lines: &mut [HunkLine]) -> Result<(), ParseError> {
        match lines.last_mut() {
            Some(last) if !last.lacks_newline => last.lacks_newline = true,
            _ => return Err(self.syntax("`\\ No newline` has no line before it")),
        }
        self.at += 1;
        Ok(())
    }
}

/// What stands after `---` or `+++`.
enum Side {
    Path(String),
    DevNull,
}

impl Side {
    fn path(self) -> Option<String> {
        match self {
            Self::Path(path) => Some(path),
            Self::DevNull => None,
        }
    }
}

#[derive(Default)]
struct Header {
    path: Option<String>,
    old: Option<Side>,
    new: Option<Side>,
    is_new: bool,
    is_deleted: bool,
}

/// The path of `diff --git a/PATH b/PATH` when both sides name the same one.
fn same_name(names: &str) -> Option<String> {
    if names.starts_with('"') {
        let middle = names.find("\" \"")?;
        let (old, new) = (unquote(names.get(..=middle)?)?, unquote(names.get(middle + 2..)?)?);
        return (old.strip_prefix("a/")? == new.strip_prefix("b/")?)
            .then(|| new.trim_start_matches("b/").to_owned());
    }
    // A name may hold spaces; equal halves are the only reading.
    let half = names.len().checked_sub(1)? / 2;
    let (old, new) = (names.get(..half)?.strip_prefix("a/")?, names.get(half + 1..)?.strip_prefix("b/")?);
    (old == new).then(|| old.to_owned())
}

/// A name out of git's C quotes; as it is when it has none. `None` when malformed or not UTF-8.
fn unquote(text: &str) -> Option<String> {
    let Some(inner) = text.strip_prefix('"') else { return Some(text.to_owned()) };
    let inner = inner.strip_suffix('"')?;
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'"' {
            return None;
        }
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next()? {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'a' => 7,
            b'b' => 8,
            b'v' => 11,
            b'f' => 12,
            b'"' => b'"',
            b'\\' => b'\\',
            first @ b'0'..=b'3' => {
                let mut digit =
                    || rest.next().filter(|byte| (b'0'..=b'7').contains(byte)).map(|byte| byte - b'0');
                (first - b'0') * 64 + digit()? * 8 + digit()?
            }
            _ => return None,
        });
    }
    String::from_utf8(bytes).ok()
}

fn hunk_header(line: &str) -> Option<[usize; 4]> {
    let (ranges, _) = line.strip_prefix("@@ -")?.split_once(" @@")?;
    let (old, new) = ranges.split_once(" +")?;
    let range = |text: &str| -> Option<(usize, usize)> {
        let (start, count) = text.split_once(',').unwrap_or((text, "1"));
        // Nine digits are more lines than the bound on bytes allows.
        let number = |digits: &str| {
            let is_number =
                !digits.is_empty() && digits.len() <= 9 && digits.bytes().all(|b| b.is_ascii_digit());
            is_number.then(|| digits.parse().ok()).flatten()
        };
        Some((number(start)?, number(count)?))
    };
    let ((old_start, old_count), (new_start, new_count)) = (range(old)?, range(new)?);
    Some([old_start, old_count, new_start, new_count])
}
