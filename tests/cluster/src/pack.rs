//! Packing an OCI image without a daemon: one layer, an archive that `ctr images import` takes.
//!
//! Contents are files of this machine, so an image is packed again only when one of them changes (by size or time), and
//! equal contents give equal digests: times, owners and order are fixed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use crate::error::{BedError, Result};

const MEDIA: &str = "application/vnd.oci.image";

/// What lies at a path of an image.
#[derive(Clone, Debug)]
pub enum Content {
    /// A copy of a file of this machine, with its mode.
    Copy(PathBuf, u32),
    /// Text.
    Text(String),
    /// A symbolic link.
    Link(String),
    /// A folder with a mode.
    Folder(u32),
}

/// An image to be packed.
#[derive(Clone, Debug)]
pub struct Image {
    /// Short name of its archive.
    pub name: &'static str,
    /// References under which nodes have it.
    pub references: Vec<String>,
    /// Contents by path without a leading slash.
    pub contents: BTreeMap<String, Content>,
    /// `Entrypoint` of its configuration.
    pub entrypoint: Vec<String>,
    /// `Env` of its configuration, `NAME=value`.
    pub environment: Vec<String>,
    /// `User` of its configuration.
    pub user: String,
}

impl Image {
    /// An image with the folders that every program expects.
    pub fn new(name: &'static str, references: &[&str]) -> Self {
        let links = [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")];
        let mut contents: BTreeMap<String, Content> =
            links.iter().map(|(path, to)| ((*path).to_owned(), Content::Link((*to).to_owned()))).collect();
        for folder in ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc", "proc", "sys", "dev", "run"] {
            contents.insert(folder.to_owned(), Content::Folder(0o755));
        }
        contents.insert("tmp".to_owned(), Content::Folder(0o1777));
        let users = "root:x:0:0:root:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/bin/sh\n";
        contents.insert("etc/passwd".to_owned(), Content::Text(users.to_owned()));
        contents.insert("etc/group".to_owned(), Content::Text("root:x:0:\nnogroup:x:65534:\n".to_owned()));
        Self {
            name,
            references: references.iter().map(|&reference| reference.to_owned()).collect(),
            contents,
            entrypoint: Vec::new(),
            environment: vec!["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
            user: String::new(),
        }
    }

    /// Adds `content` at `path`, folders above it included.
    pub fn put(&mut self, path: &str, content: Content) {
        let path = path.trim_start_matches('/');
        for (end, _) in path.match_indices('/') {
            let folder = path.get(..end).unwrap_or_default();
            self.contents.entry(folder.to_owned()).or_insert(Content::Folder(0o755));
        }
        self.contents.insert(path.to_owned(), content);
    }

    /// Adds a copy of a file of this machine at its own path (`/lib` and the like at where they lead), or elsewhere.
    pub fn copy(&mut self, from: &Path, to: Option<&str>) -> Result<()> {
        let metadata = fs::metadata(from).map_err(BedError::file(from))?;
        let own = from.to_string_lossy();
        let own = own.trim_start_matches('/');
        let merged = ["lib/", "lib64/", "bin/", "sbin/"].iter().any(|folder| own.starts_with(folder));
        let path = match to {
            Some(path) => path.to_owned(),
            None if merged => format!("usr/{own}"),
            None => own.to_owned(),
        };
        self.put(&path, Content::Copy(from.to_owned(), metadata.mode() & 0o777));
        Ok(())
    }

    /// Packs the image into `cache` unless it is there, and returns the archive's path.
    pub fn pack(&self, cache: &Path) -> Result<PathBuf> {
        fs::create_dir_all(cache).map_err(BedError::file(cache))?;
        let path = cache.join(format!("{}-{}.tar", self.name, self.key()?));
        if path.exists() {
            return Ok(path);
        }
        let temporary = cache.join(format!(".{}-{}", self.name, std::process::id()));
        let written = self.write(&temporary);
        let _ = fs::remove_file(temporary.with_extension("layer"));
        written.map_err(BedError::file(&temporary))?;
        self.forget_others(cache);
        fs::rename(&temporary, &path).map_err(BedError::file(&path))?;
        Ok(path)
    }

    /// Archives of earlier contents: beds that use them hold links of their own.
    fn forget_others(&self, cache: &Path) {
        for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let digest = name.strip_prefix(self.name).and_then(|rest| rest.strip_prefix('-'));
            let digest = digest.and_then(|rest| rest.strip_suffix(".tar"));
            if digest.is_some_and(|digest| digest.chars().all(|c| c.is_ascii_hexdigit())) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Digest of what decides the archive's content.
    fn key(&self) -> Result<String> {
        let mut digest = Sha256::new();
        let head = (&self.references, &self.entrypoint, &self.environment, &self.user);
        digest.update(format!("2 {head:?}"));
        for (path, content) in &self.contents {
            digest.update(format!("\n{path} {content:?}"));
            if let Content::Copy(from, _) = content {
                let metadata = fs::metadata(from).map_err(BedError::file(from))?;
                digest.update(format!(" {} {} {}", metadata.len(), metadata.mtime(), metadata.mtime_nsec()));
            }
        }
        Ok(hex(&digest.finalize()).chars().take(24).collect())
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let layer_path = path.with_extension("layer");
        let layer = self.write_layer(&layer_path)?;
        let layer_bytes = fs::metadata(&layer_path)?.len();
        let configuration = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint, "Env": self.environment, "User": self.user, "WorkingDir": "/",
            },
            "rootfs": { "type": "layers", "diff_ids": [layer] },
        });
        let mut blobs = Vec::new();
        let configuration = blob(&mut blobs, "config.v1+json", &configuration);
        let manifest = blob(
            &mut blobs,
            "manifest.v1+json",
            &json!({
                "schemaVersion": 2,
                "mediaType": format!("{MEDIA}.manifest.v1+json"),
                "config": configuration,
                "layers": [{ "mediaType": format!("{MEDIA}.layer.v1.tar"), "digest": layer, "size": layer_bytes }],
            }),
        );
        let entries = self.references.iter().map(|reference| {
            let mut entry = manifest.clone();
            if let Some(fields) = entry.as_object_mut() {
                let names = json!({
                    "io.containerd.image.name": reference,
                    "org.opencontainers.image.ref.name": reference.rsplit(':').next(),
                });
                fields.insert("annotations".to_owned(), names);
            }
            entry
        });
        let index = json!({
            "schemaVersion": 2,
            "mediaType": format!("{MEDIA}.index.v1+json"),
            "manifests": entries.collect::<Vec<_>>(),
        });
        let mut archive = Builder::new(BufWriter::new(File::create(path)?));
        let mut put = |name: &str, bytes: &mut dyn Read, size: u64| {
            archive.append_data(&mut header(EntryType::Regular, 0o644, size), name, bytes)
        };
        put("oci-layout", &mut &br#"{"imageLayoutVersion":"1.0.0"}"#[..], 30)?;
        let index = index.to_string();
        put("index.json", &mut index.as_bytes(), index.len() as u64)?;
        for (digest, bytes) in &blobs {
            put(&blob_path(digest), &mut bytes.as_slice(), bytes.len() as u64)?;
        }
        put(&blob_path(&layer), &mut BufReader::new(File::open(&layer_path)?), layer_bytes)?;
        archive.into_inner()?.flush()
    }

    /// Writes the layer and returns its digest.
    fn write_layer(&self, path: &Path) -> io::Result<String> {
        let sink = Hashing { inner: BufWriter::new(File::create(path)?), digest: Sha256::new() };
        let mut archive = Builder::new(sink);
        for (path, content) in &self.contents {
            match content {
                Content::Copy(from, mode) => {
                    let file = File::open(from)?;
                    let size = file.metadata()?.len();
                    archive.append_data(&mut header(EntryType::Regular, *mode, size), path, file)?;
                }
                Content::Text(text) => {
                    let mut header = header(EntryType::Regular, 0o644, text.len() as u64);
                    archive.append_data(&mut header, path, text.as_bytes())?;
                }
                Content::Link(to) => {
                    archive.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, to)?;
                }
                Content::Folder(mode) => {
                    archive.append_data(
                        &mut header(EntryType::Directory, *mode, 0),
                        format!("{path}/"),
                        io::empty(),
                    )?;
                }
            }
        }
        let mut sink = archive.into_inner()?;
        sink.inner.flush()?;
        Ok(format!("sha256:{}", hex(&sink.digest.finalize())))
    }
}

/// Adds a document to the blobs and returns its descriptor.
fn blob(blobs: &mut Vec<(String, Vec<u8>)>, kind: &str, document: &Value) -> Value {
    let bytes = document.to_string().into_bytes();
    let digest = format!("sha256:{}", hex(&Sha256::digest(&bytes)));
    let descriptor = json!({ "mediaType": format!("{MEDIA}.{kind}"), "digest": digest, "size": bytes.len() });
    blobs.push((digest, bytes));
    descriptor
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

struct Hashing<W> {
    inner: W,
    digest: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.digest.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
