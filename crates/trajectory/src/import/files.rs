//! File names and gzip: which files hold records, and their bytes after decompression.

use std::io::Read as _;

use flate2::read::MultiGzDecoder;

/// Endings of files that may hold trajectories or verdicts, with and without `.gz`.
const ENDINGS: [&str; 3] = [".jsonl", ".json", ".traj"];

/// Whether a file may hold trajectories or verdicts, by its name alone. Others need not be read.
pub fn wants(path: &str) -> bool {
    let name = without_gz(path);
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// One record a line, or one record a file.
pub(super) fn is_line_oriented(path: &str) -> bool {
    without_gz(path).strip_suffix(".jsonl").is_some()
}

pub(super) fn without_gz(path: &str) -> &str {
    path.strip_suffix(".gz").unwrap_or(path)
}

/// The parts of a path before and after the last slash.
pub(super) fn split_path(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// A file's bytes, as far as they could be decoded.
pub(super) struct Content {
    pub(super) bytes: Vec<u8>,
    pub(super) broken: Option<&'static str>,
}

impl Content {
    /// The line at which a line-oriented file broke off.
    pub(super) fn lines_before_break(&self, path: &str) -> u64 {
        // `decode` left nothing after the last complete line.
        let lines = self.bytes.split(|byte| *byte == b'\n').count();
        if is_line_oriented(path) { u64::try_from(lines).unwrap_or(u64::MAX) } else { 1 }
    }
}

/// Decodes gzip by its magic number; everything else is taken as it is. A broken stream keeps the complete lines
/// before the break.
pub(super) fn decode(bytes: &[u8], limit: usize) -> Content {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        let broken = (bytes.len() > limit).then_some("the file is larger than the limit for one file");
        return Content { bytes: if broken.is_some() { Vec::new() } else { bytes.to_vec() }, broken };
    }
    let mut out = Vec::new();
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let read = MultiGzDecoder::new(bytes).take(bound).read_to_end(&mut out);
    let broken = match read {
        Ok(_) if out.len() > limit => {
            Some("the file is larger than the limit for one file after decompression")
        }
        Ok(_) => None,
        Err(_) => Some("the gzip stream is cut off or damaged; what follows is lost"),
    };
    if broken.is_some() {
        let complete = out.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        out.truncate(complete);
    }
    Content { bytes: out, broken }
}
