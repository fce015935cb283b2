//! What changed in the task root: a sealed record of every file, and its comparison with the present.
//!
//! The record lives in the server's memory, where task code cannot reach it; so the diff that a runner makes of the reply does
//! not depend on any repository or tool inside the sandbox. Files whose inode, size and change time are as sealed are not
//! read again; the change time cannot be set by task code.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};

use crate::base64::Bytes;
use crate::files::{Bounds, DEPTH_MAX, Place, READ_BYTES_MAX, Root, kind, open_regular};
use crate::protocol::{
    Change, ChangeKind, Changes, ChangesReply, EntryKind, ErrorCode, ErrorReply, FILES_MAX, FileState, Seal,
    SealReply,
};
use crate::signing::digest_hex;

/// Most names that a seal records; a large repository has some tens of thousands.
const ENTRIES_MAX: usize = 200_000;
/// Contents above this are sealed by digest only.
const SEALED_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Contents kept in memory for one seal.
const SEALED_TOTAL_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A file changed this shortly before the seal may change again within the clock's grain, so it is read again.
const CLOCK_GRAIN: Duration = Duration::from_millis(50);
/// Most names a seal may skip.
const SKIP_NAMES_MAX: usize = 64;

/// The task root as it was sealed.
#[derive(Debug)]
pub struct Sealed {
    records: BTreeMap<Vec<u8>, Record>,
    skip_names: Vec<String>,
    trusted_before: Duration,
}

#[derive(Debug)]
struct Record {
    kind: EntryKind,
    mode: u32,
    bytes: u64,
    digest: String,
    content: Option<Arc<[u8]>>,
    stamp: Stamp,
}

/// What the kernel changes with every change of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    mode: u32,
    changed: Duration,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let seconds = u64::try_from(metadata.ctime()).unwrap_or(0);
        let nanoseconds = u32::try_from(metadata.ctime_nsec()).unwrap_or(0);
        let changed = Duration::new(seconds, nanoseconds);
        Self { inode: metadata.ino(), bytes: metadata.len(), mode: metadata.mode(), changed }
    }
}

impl Record {
    /// Reads what is at `place`; the content is kept where it has at most `keep` bytes.
    fn read(place: &Place, metadata: &Metadata, keep: u64) -> io::Result<Self> {
        let mut record = Self {
            kind: kind(metadata),
            mode: metadata.mode() & 0o777,
            bytes: metadata.len(),
            digest: String::new(),
            content: None,
            stamp: Stamp::of(metadata),
        };
        match record.kind {
            EntryKind::Symlink => {
                let target = fs::read_link(place.path())?;
                record.digest = digest_hex(target.as_os_str().as_bytes());
                record.content = Some(target.as_os_str().as_bytes().into());
            }
            EntryKind::File => {
                let (file, metadata) = open_regular(&place.path())?;
                let (digest, bytes, content) = digest_and_content(file, keep)?;
                record.stamp = Stamp::of(&metadata);
                (record.digest, record.bytes, record.content) = (digest, bytes, content.map(Arc::from));
            }
            EntryKind::Directory | EntryKind::Other => {}
        }
        Ok(record)
    }

    /// A file that exists and cannot be read (its owner took its permission away).
    fn unreadable(metadata: &Metadata) -> Self {
        let (kind, mode, bytes) = (EntryKind::Other, metadata.mode() & 0o777, metadata.len());
        Self { kind, mode, bytes, digest: String::new(), content: None, stamp: Stamp::of(metadata) }
    }

    /// What makes two sides equal: as in git, of the permissions only the executable bit counts.
    fn identity(&self) -> (EntryKind, bool, &str) {
        (self.kind, self.mode & 0o100 != 0, &self.digest)
    }

    fn state(&self, max_file_bytes: usize, budget: &mut usize) -> FileState {
        let fits = |content: &&Arc<[u8]>| content.len() <= max_file_bytes && content.len() <= *budget;
        let content = self.content.as_ref().filter(fits).map(|content| Bytes(content.to_vec()));
        *budget -= content.as_ref().map_or(0, |content| content.0.len());
        let Self { kind, mode, bytes, ref digest, .. } = *self;
        FileState { kind, mode, bytes, digest: digest.clone(), content }
    }
}

fn digest_and_content(mut file: fs::File, keep: u64) -> io::Result<(String, u64, Option<Vec<u8>>)> {
    let mut content = Vec::new();
    let mut start = (&mut file).take(keep.saturating_add(1));
    start.read_to_end(&mut content)?;
    let mut hash = Sha256::new();
    hash.update(&content);
    let mut total = u64::try_from(content.len()).unwrap_or(u64::MAX);
    if total <= keep {
        return Ok((digest_hex_of(hash), total, Some(content)));
    }
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            return Ok((digest_hex_of(hash), total, None));
        }
        hash.update(chunk.get(..count).unwrap_or_default());
        total = total.saturating_add(u64::try_from(count).unwrap_or(0));
    }
}

fn digest_hex_of(hash: Sha256) -> String {
    format!("{:x}", hash.finalize())
}

/// Records `root` as it is now.
pub fn seal(root: &Root, request: Seal) -> Result<(Sealed, SealReply), ErrorReply> {
    if request.skip_names.len() > SKIP_NAMES_MAX {
        let text = format!("skipNames: over {SKIP_NAMES_MAX} names");
        return Err(ErrorReply::new(ErrorCode::TooLarge, text));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut records = BTreeMap::new();
    let mut budget = SEALED_TOTAL_BYTES_MAX;
    visit_files(root, &request.skip_names, &mut |path, place, metadata| {
        let keep = SEALED_FILE_BYTES_MAX.min(u64::try_from(budget).unwrap_or(0));
        let record = Record::read(place, metadata, keep).unwrap_or_else(|_| Record::unreadable(metadata));
        budget = budget.saturating_sub(record.content.as_ref().map_or(0, |content| content.len()));
        records.insert(path.to_vec(), record);
    })?;
    let reply = SealReply {
        files: records.len(),
        without_content: records.values().filter(|record| record.content.is_none()).count(),
        digest: digest_of(&records),
    };
    let trusted_before = now.saturating_sub(CLOCK_GRAIN);
    Ok((Sealed { records, skip_names: request.skip_names, trusted_before }, reply))
}

fn digest_of(records: &BTreeMap<Vec<u8>, Record>) -> String {
    let mut hash = Sha256::new();
    for (path, record) in records {
        let (kind, is_executable, digest) = record.identity();
        hash.update(u64::try_from(path.len()).unwrap_or(0).to_be_bytes());
        hash.update(path);
        hash.update(format!("{kind:?} {is_executable} {digest}\n"));
    }
    digest_hex_of(hash)
}

fn visit_files(
    root: &Root,
    skip_names: &[String],
    visit: &mut dyn FnMut(&[u8], &Place, &Metadata),
) -> Result<(), ErrorReply> {
    let skip = |name: &[u8]| skip_names.iter().any(|skipped| skipped.as_bytes() == name);
    let bounds = Bounds { depth: DEPTH_MAX, entries: ENTRIES_MAX };
    let is_whole = root.walk(&bounds, &skip, &mut |path, place, metadata| {
        if !metadata.is_dir() {
            visit(path, place, metadata);
        }
    });
    match is_whole {
        Ok(true) => Ok(()),
        Ok(false) => {
            let text = format!(
                "task root: more than {ENTRIES_MAX} names or {DEPTH_MAX} levels; skip some by skipNames"
            );
            Err(ErrorReply::new(ErrorCode::TooLarge, text))
        }
        Err(error) => Err(ErrorReply::new(ErrorCode::Io, format!("walk the task root: {error}"))),
    }
}

/// Compares `root` with `sealed`.
pub fn changes(root: &Root, sealed: &Sealed, request: &Changes) -> Result<ChangesReply, ErrorReply> {
    let mut present: BTreeMap<Vec<u8>, Option<Record>> = BTreeMap::new();
    let mut kept = 0;
    visit_files(root, &sealed.skip_names, &mut |path, place, metadata| {
        let old = sealed.records.get(path);
        let stamp = Stamp::of(metadata);
        if old.is_some_and(|old| old.stamp == stamp && stamp.changed < sealed.trusted_before) {
            present.insert(path.to_vec(), None);
            return;
        }
        let keep = request.max_file_bytes.min(READ_BYTES_MAX.saturating_sub(kept));
        let record = Record::read(place, metadata, u64::try_from(keep).unwrap_or(0))
            .unwrap_or_else(|_| Record::unreadable(metadata));
        let is_equal = old.is_some_and(|old| old.identity() == record.identity());
        if !is_equal {
            kept += record.content.as_ref().map_or(0, |content| content.len());
        }
        present.insert(path.to_vec(), (!is_equal).then_some(record));
    })?;
    Ok(compare(sealed, &present, request))
}

/// `present` has a record for each path that differs and `None` for each that does not.
fn compare(sealed: &Sealed, present: &BTreeMap<Vec<u8>, Option<Record>>, request: &Changes) -> ChangesReply {
    let gone = sealed.records.keys().filter(|path| !present.contains_key(*path));
    let differing = present.iter().filter(|(_, record)| record.is_some()).map(|(path, _)| path);
    let mut paths: Vec<&Vec<u8>> = gone.chain(differing).collect();
    paths.sort_unstable();
    let is_truncated = paths.len() > FILES_MAX;
    paths.truncate(FILES_MAX);
    let mut budget = request.max_total_bytes.min(READ_BYTES_MAX);
    let changes = paths.into_iter().filter_map(|path| {
        let (old, new) = (sealed.records.get(path), present.get(path).and_then(Option::as_ref));
        let kind = match (old, new) {
            (None, Some(_)) => ChangeKind::Added,
            (Some(_), Some(_)) => ChangeKind::Modified,
            (Some(_), None) => ChangeKind::Deleted,
            (None, None) => return None,
        };
        let mut state = |record: &Record| record.state(request.max_file_bytes, &mut budget);
        let (new, old) = (new.map(&mut state), old.map(&mut state));
        Some(Change { path: String::from_utf8_lossy(path).into_owned(), kind, old, new })
    });
    ChangesReply { changes: changes.collect(), is_truncated }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    const ALL: Changes = Changes { max_file_bytes: 1000, max_total_bytes: 10_000 };

    fn sealed_folder() -> (tempfile::TempDir, Root, Sealed) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("src")).unwrap();
        for (path, content) in [("src/a.py", "a"), ("src/b.py", "b"), ("c.txt", "c")] {
            fs::write(folder.path().join(path), content).unwrap();
        }
        let root = Root::open(folder.path()).unwrap();
        let (sealed, reply) = seal(&root, Seal { skip_names: vec!["__pycache__".into()] }).unwrap();
        assert_eq!((reply.files, reply.without_content), (3, 0));
        (folder, root, sealed)
    }

    fn summary(reply: &ChangesReply) -> Vec<(String, ChangeKind, Option<String>, Option<String>)> {
        let text = |state: &Option<FileState>| {
            let content = state.as_ref()?.content.as_ref()?;
            Some(String::from_utf8_lossy(&content.0).into_owned())
        };
        let changes = reply.changes.iter();
        changes
            .map(|change| (change.path.clone(), change.kind, text(&change.old), text(&change.new)))
            .collect()
    }

    #[test]
    fn an_untouched_tree_has_no_changes_and_a_stable_digest() {
        let (_folder, root, sealed) = sealed_folder();
        assert_eq!(changes(&root, &sealed, &ALL).unwrap().changes, []);
        let digest = || seal(&root, Seal::default()).unwrap().1.digest;
        assert_eq!(digest(), digest());
    }

    #[test]
    fn added_modified_and_deleted_files_are_told_with_both_sides() {
        let (folder, root, sealed) = sealed_folder();
        fs::write(folder.path().join("src/a.py"), "A").unwrap();
        fs::remove_file(folder.path().join("src/b.py")).unwrap();
        fs::create_dir(folder.path().join("new")).unwrap();
        fs::write(folder.path().join("new/d.py"), "d").unwrap();
        let reply = changes(&root, &sealed, &ALL).unwrap();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            summary(&reply),
            [
                ("new/d.py".into(), ChangeKind::Added, None, some("d")),
                ("src/a.py".into(), ChangeKind::Modified, some("a"), some("A")),
                ("src/b.py".into(), ChangeKind::Deleted, some("b"), None),
            ]
        );
    }

    #[test]
    fn a_rewrite_of_equal_length_at_once_and_with_the_old_time_is_seen() {
        let (folder, root, sealed) = sealed_folder();
        let path = folder.path().join("c.txt");
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, "C").unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(before).unwrap();
        assert_eq!(changes(&root, &sealed, &ALL).unwrap().changes.len(), 1);
    }

    #[test]
    fn of_the_permissions_only_the_executable_bit_counts() {
        let (folder, root, sealed) = sealed_folder();
        let set = |path: &str, mode| {
            fs::set_permissions(folder.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
        };
        set("c.txt", 0o600);
        set("src/a.py", 0o755);
        let reply = changes(&root, &sealed, &ALL).unwrap();
        assert_eq!(reply.changes.iter().map(|change| change.path.as_str()).collect::<Vec<_>>(), ["src/a.py"]);
    }

    #[test]
    fn links_and_special_files_are_told_as_such_and_never_followed() {
        let (folder, root, sealed) = sealed_folder();
        fs::remove_file(folder.path().join("c.txt")).unwrap();
        symlink("/etc/hostname", folder.path().join("c.txt")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        let reply = changes(&root, &sealed, &ALL).unwrap();
        let new = |index: usize| reply.changes[index].new.clone().unwrap();
        assert_eq!((new(0).kind, new(0).content), (EntryKind::Symlink, Some("/etc/hostname".into())));
        assert_eq!((new(1).kind, new(1).content), (EntryKind::Other, None));
    }

    #[test]
    fn contents_over_a_bound_are_left_out_but_their_digests_are_told() {
        let (folder, root, sealed) = sealed_folder();
        fs::write(folder.path().join("c.txt"), "x".repeat(2000)).unwrap();
        let reply = changes(&root, &sealed, &ALL).unwrap();
        let new = reply.changes[0].new.clone().unwrap();
        assert_eq!(
            (new.bytes, new.content, new.digest),
            (2000, None, digest_hex("x".repeat(2000).as_bytes()))
        );
        let none = Changes { max_total_bytes: 0, ..ALL };
        let reply = changes(&root, &sealed, &none).unwrap();
        assert_eq!(reply.changes[0].old.clone().unwrap().content, None);
    }

    #[test]
    fn skipped_names_are_invisible_at_any_depth() {
        let (folder, root, sealed) = sealed_folder();
        fs::create_dir_all(folder.path().join("src/__pycache__")).unwrap();
        fs::write(folder.path().join("src/__pycache__/a.pyc"), "x").unwrap();
        assert_eq!(changes(&root, &sealed, &ALL).unwrap().changes, []);
    }
}
