//! Files of the task root, without ever leaving it.
//!
//! Every path is walked component by component from the root's descriptor, each step refusing symbolic links, and the last
//! step goes through `/proc/self/fd/<directory>/<name>`: so no rename or link that task code makes meanwhile can move an
//! access elsewhere. [`RelativePath`] is the only way in.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::protocol::{
    Entry, EntryKind, ErrorCode, ErrorReply, FILES_MAX, FileWrite, List, ListReply, PATH_BYTES_MAX, ReadFile,
    ReadFileReply, RemoveFiles, WriteFiles,
};

/// Longest name of one file: the bound of common file systems.
const NAME_BYTES_MAX: usize = 255;
/// Most content bytes that one request reads.
pub const READ_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Deepest directory that a walk enters: each level holds a descriptor.
pub const DEPTH_MAX: usize = 64;

/// A path below the task root: not empty, relative, without `.`, `..`, empty components or NUL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelativePath(Vec<String>);

impl RelativePath {
    /// Parses `text`, or says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ErrorReply> {
        let refuse = |why: &str| ErrorReply::new(ErrorCode::PathRefused, format!("path {text:?}: {why}"));
        if text.len() > PATH_BYTES_MAX {
            return Err(ErrorReply::new(ErrorCode::TooLarge, format!("path: over {PATH_BYTES_MAX} bytes")));
        }
        if text.starts_with('/') {
            return Err(refuse("must be relative to the task root"));
        }
        let components: Vec<String> = text.split('/').map(str::to_owned).collect();
        for component in &components {
            match component.as_str() {
                "" => return Err(refuse("has an empty component")),
                "." | ".." => return Err(refuse("must not have . or .. in it")),
                name if name.contains('\0') => return Err(refuse("has a NUL in it")),
                name if name.len() > NAME_BYTES_MAX => return Err(refuse("has a name over 255 bytes")),
                _ => {}
            }
        }
        if components.len() > DEPTH_MAX {
            Err(refuse("is deeper than 64 directories"))
        } else {
            Ok(Self(components))
        }
    }
}

/// The task root.
#[derive(Debug)]
pub struct Root {
    directory: File,
}

/// A name in an open directory.
pub struct Place {
    directory: File,
    name: std::ffi::OsString,
}

impl Place {
    /// A path to this name that no one can redirect.
    pub fn path(&self) -> PathBuf {
        inside(&self.directory).join(&self.name)
    }
}

/// The path of an open directory's inside, resolved by the kernel from the descriptor.
fn inside(directory: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

fn open_directory(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path)
}

/// Opens a regular file for reading; a link, or a pipe that would block, is refused.
pub fn open_regular(path: &Path) -> io::Result<(File, Metadata)> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok((file, metadata)) } else { Err(io::Error::from_raw_os_error(libc::ELOOP)) }
}

fn refusal(path: &str, error: &io::Error) -> ErrorReply {
    let code = match error.raw_os_error() {
        Some(libc::ELOOP | libc::ENOTDIR | libc::ENXIO) => ErrorCode::PathRefused,
        Some(libc::ENOENT) => ErrorCode::NotFound,
        _ => ErrorCode::Io,
    };
    let text = match code {
        ErrorCode::PathRefused => "passes or is something else than a directory or regular file".to_owned(),
        _ => error.to_string(),
    };
    ErrorReply::new(code, format!("path {path:?}: {text}"))
}

impl Root {
    /// Opens the task root at `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { directory: open_directory(path)? })
    }

    fn reopen(&self) -> io::Result<File> {
        self.directory.try_clone()
    }

    /// The directory that holds `path`, made where `create` says so, and the name in it.
    fn place(&self, path: &RelativePath, create: bool) -> io::Result<Place> {
        let mut directory = self.reopen()?;
        let Some((name, parents)) = path.0.split_last() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        for parent in parents {
            let next = inside(&directory).join(parent);
            directory = match open_directory(&next) {
                Err(error) if create && error.kind() == io::ErrorKind::NotFound => {
                    match DirBuilder::new().mode(0o755).create(&next) {
                        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                        _ => open_directory(&next)?,
                    }
                }
                other => other?,
            };
        }
        Ok(Place { directory, name: name.into() })
    }

    /// Writes the files of `request` in order and stops at the first that fails; its path is in the error.
    pub fn write(&self, request: &WriteFiles) -> Result<(), ErrorReply> {
        let paths: Vec<RelativePath> =
            request.files.iter().map(|file| RelativePath::parse(&file.path)).collect::<Result<_, _>>()?;
        for (path, file) in paths.iter().zip(&request.files) {
            self.write_one(path, file).map_err(|error| refusal(&file.path, &error))?;
        }
        Ok(())
    }

    /// Replaces what is at `path` by a new file. A link there is refused, not replaced: the runner wrote none, so task code
    /// did, and the runner should know.
    fn write_one(&self, path: &RelativePath, file: &FileWrite) -> io::Result<()> {
        let place = self.place(path, true)?;
        let target = place.path();
        match fs::symlink_metadata(&target) {
            Ok(metadata) if metadata.is_file() => fs::remove_file(&target)?,
            Ok(_) => return Err(io::Error::from_raw_os_error(libc::ELOOP)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut created =
            OpenOptions::new().write(true).create_new(true).custom_flags(libc::O_NOFOLLOW).open(&target)?;
        created.write_all(&file.content.0)?;
        created.set_permissions(fs::Permissions::from_mode(file.mode & 0o777))
    }

    /// Removes files; absent ones are no error.
    pub fn remove(&self, request: &RemoveFiles) -> Result<(), ErrorReply> {
        for text in &request.paths {
            let path = RelativePath::parse(text)?;
            let removed = self.place(&path, false).and_then(|place| fs::remove_file(place.path()));
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refusal(text, &error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads the beginning of a file.
    pub fn read(&self, request: &ReadFile) -> Result<ReadFileReply, ErrorReply> {
        let path = RelativePath::parse(&request.path)?;
        let read = || {
            let (file, metadata) = open_regular(&self.place(&path, false)?.path())?;
            let limit = u64::try_from(request.max_bytes.min(READ_BYTES_MAX)).unwrap_or(0);
            let mut content = Vec::new();
            file.take(limit).read_to_end(&mut content)?;
            let (total_bytes, mode) = (metadata.len(), metadata.mode() & 0o777);
            Ok(ReadFileReply { content: content.into(), total_bytes, mode })
        };
        read().map_err(|error| refusal(&request.path, &error))
    }

    /// Says whether `path` is a directory that no link leads to; `text` is the path as the request has it.
    pub fn check_directory(&self, path: &RelativePath, text: &str) -> Result<(), ErrorReply> {
        let opened = self.place(path, false).and_then(|place| open_directory(&place.path()));
        opened.map(drop).map_err(|error| refusal(text, &error))
    }

    /// Lists a directory.
    pub fn list(&self, request: &List) -> Result<ListReply, ErrorReply> {
        let start = if request.path.is_empty() {
            self.reopen()
        } else {
            let path = RelativePath::parse(&request.path)?;
            self.place(&path, false).and_then(|place| open_directory(&place.path()))
        };
        let start = start.map_err(|error| refusal(&request.path, &error))?;
        let mut entries = BTreeMap::new();
        let bounds =
            Bounds { depth: request.depth.min(DEPTH_MAX), entries: request.max_entries.min(FILES_MAX) };
        let prefix =
            if request.path.is_empty() { Vec::new() } else { format!("{}/", request.path).into_bytes() };
        let is_whole = walk(&start, &prefix, &bounds, &|_| false, &mut |path, _, metadata| {
            let entry = Entry {
                path: String::from_utf8_lossy(path).into_owned(),
                kind: kind(metadata),
                bytes: metadata.len(),
                mode: metadata.mode() & 0o777,
            };
            entries.insert(path.to_vec(), entry);
        });
        let is_whole = is_whole.map_err(|error| refusal(&request.path, &error))?;
        Ok(ListReply { entries: entries.into_values().collect(), is_truncated: !is_whole })
    }

    /// Visits everything below the root except names that `skip` holds for. Returns whether nothing was left out.
    pub fn walk(
        &self,
        bounds: &Bounds,
        skip: &dyn Fn(&[u8]) -> bool,
        visit: &mut dyn FnMut(&[u8], &Place, &Metadata),
    ) -> io::Result<bool> {
        walk(&self.reopen()?, b"", bounds, skip, visit)
    }
}

/// What a name stands for, of which `metadata` was read without following links.
pub fn kind(metadata: &Metadata) -> EntryKind {
    match metadata.file_type() {
        kind if kind.is_file() => EntryKind::File,
        kind if kind.is_dir() => EntryKind::Directory,
        kind if kind.is_symlink() => EntryKind::Symlink,
        _ => EntryKind::Other,
    }
}

/// How far a walk goes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Levels of directories.
    pub depth: usize,
    /// Names.
    pub entries: usize,
}

/// Visits what is below `start`, directories before what is in them, in an order that the file system chooses. Names that
/// vanish meanwhile are passed over.
fn walk(
    start: &File,
    prefix: &[u8],
    bounds: &Bounds,
    skip: &dyn Fn(&[u8]) -> bool,
    visit: &mut dyn FnMut(&[u8], &Place, &Metadata),
) -> io::Result<bool> {
    let mut left = bounds.entries;
    let mut is_whole = true;
    let mut pending = vec![(start.try_clone()?, prefix.to_vec(), bounds.depth)];
    while let Some((directory, prefix, depth)) = pending.pop() {
        for entry in readable(&directory)? {
            let Ok(entry) = entry else { continue };
            let name = entry.file_name();
            if skip(name.as_bytes()) {
                continue;
            }
            if left == 0 {
                return Ok(false);
            }
            let place = Place { directory: directory.try_clone()?, name };
            let Ok(metadata) = fs::symlink_metadata(place.path()) else { continue };
            left -= 1;
            let path = [prefix.as_slice(), place.name.as_bytes()].concat();
            visit(&path, &place, &metadata);
            if !metadata.is_dir() {
                continue;
            }
            match open_directory(&place.path()) {
                Ok(next) if depth > 1 => pending.push((next, [path.as_slice(), b"/"].concat(), depth - 1)),
                Ok(_) => is_whole = false,
                Err(_) => {}
            }
        }
    }
    Ok(is_whole)
}

/// The entries of `directory`. One that its owner closed to itself (mode 0) is opened again: hiding files from the server
/// must not be that easy.
fn readable(directory: &File) -> io::Result<fs::ReadDir> {
    let path = inside(directory);
    fs::read_dir(&path).or_else(|error| {
        if error.kind() != io::ErrorKind::PermissionDenied {
            return Err(error);
        }
        fs::set_permissions(path.join("."), fs::Permissions::from_mode(0o755))
            .or_else(|_| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))?;
        fs::read_dir(&path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn write(root: &Root, path: &str, content: &str) -> Result<(), ErrorReply> {
        let file = FileWrite { path: path.to_owned(), content: content.into(), mode: 0o640 };
        root.write(&WriteFiles { files: vec![file] })
    }

    fn read(root: &Root, path: &str) -> Result<String, ErrorReply> {
        let reply = root.read(&ReadFile { path: path.to_owned(), max_bytes: 100 })?;
        Ok(String::from_utf8(reply.content.0).unwrap())
    }

    #[test]
    fn files_are_written_with_their_parents_and_mode_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(folder.path()).unwrap();
        write(&root, "a/b/c.txt", "one").unwrap();
        write(&root, "a/b/c.txt", "two").unwrap();
        assert_eq!(read(&root, "a/b/c.txt").unwrap(), "two");
        assert_eq!(fs::metadata(folder.path().join("a/b/c.txt")).unwrap().mode() & 0o777, 0o640);
    }

    #[test]
    fn paths_that_leave_the_root_are_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(folder.path()).unwrap();
        for path in ["/etc/passwd", "../x", "a/../../x", "a//b", "", ".", "a/.", "a\0b", "a/"] {
            let good = FileWrite { path: "good".into(), content: "x".into(), mode: 0o644 };
            let bad = FileWrite { path: path.into(), ..good.clone() };
            let refused = root.write(&WriteFiles { files: vec![good, bad] }).unwrap_err();
            assert_eq!(refused.code, ErrorCode::PathRefused, "{path:?}");
        }
        assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
    }

    #[test]
    fn symbolic_links_are_refused_as_parent_and_as_target() {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("secret"), "secret").unwrap();
        symlink(outside.path(), folder.path().join("directory")).unwrap();
        symlink(outside.path().join("secret"), folder.path().join("file")).unwrap();
        let root = Root::open(folder.path()).unwrap();
        for path in ["directory/secret", "directory/new", "file"] {
            assert_eq!(write(&root, path, "x").unwrap_err().code, ErrorCode::PathRefused, "write {path}");
            assert_eq!(read(&root, path).unwrap_err().code, ErrorCode::PathRefused, "read {path}");
        }
        let escape = RemoveFiles { paths: vec!["directory/secret".into()] };
        assert_eq!(root.remove(&escape).unwrap_err().code, ErrorCode::PathRefused);
        assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), "secret");
    }

    #[test]
    fn special_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        let root = Root::open(folder.path()).unwrap();
        assert_eq!(read(&root, "socket").unwrap_err().code, ErrorCode::PathRefused);
        assert_eq!(write(&root, "socket", "x").unwrap_err().code, ErrorCode::PathRefused);
    }

    #[test]
    fn lists_are_sorted_bounded_and_do_not_follow_links() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(folder.path()).unwrap();
        write(&root, "b/d", "x").unwrap();
        write(&root, "a", "x").unwrap();
        symlink("/etc", folder.path().join("link")).unwrap();
        let list = |depth, max_entries| {
            let reply = root.list(&List { path: String::new(), depth, max_entries }).unwrap();
            (reply.entries.into_iter().map(|entry| entry.path).collect::<Vec<_>>(), reply.is_truncated)
        };
        assert_eq!(list(9, 9), (vec!["a".into(), "b".into(), "b/d".into(), "link".into()], false));
        assert_eq!(list(1, 9), (vec!["a".into(), "b".into(), "link".into()], true));
        assert_eq!(list(9, 2).0.len(), 2);
        assert!(list(9, 2).1);
    }

    #[test]
    fn removing_what_is_absent_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(folder.path()).unwrap();
        write(&root, "a/b", "x").unwrap();
        root.remove(&RemoveFiles { paths: vec!["a/b".into(), "a/c".into(), "no/such".into()] }).unwrap();
        assert_eq!(read(&root, "a/b").unwrap_err().code, ErrorCode::NotFound);
    }
}
