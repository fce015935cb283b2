//! Finds the shared real data and imports a set of it the way the program does.
#![allow(clippy::disallowed_methods, reason = "a test reads files")]

use std::path::{Path, PathBuf};

use sealign_trajectory::import::{ImportOptions, Imported, Importer, wants};

/// The folder of a set, or `None` with a line that says that the test is skipped.
pub fn folder(set: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let root = std::env::var_os("SEALIGN_SHARED_DATA").map_or_else(beside, PathBuf::from);
    let folder = root.join(set);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: no shared data");
    None
}

/// Imports every file of a folder.
pub fn import(folder: &Path) -> Imported {
    let source = folder.file_name().unwrap().to_str().unwrap();
    let mut importer = Importer::new(ImportOptions::new(source));
    add_files(folder, folder, &mut importer);
    importer.finish()
}

fn add_files(root: &Path, folder: &Path, importer: &mut Importer) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            add_files(root, &path, importer);
            continue;
        }
        let relative = path.strip_prefix(root).unwrap().to_str().unwrap();
        if wants(relative) {
            importer.add(relative, &std::fs::read(&path).unwrap());
        }
    }
}
