//! The images that the bed's nodes have: pods never pull, because there is no registry.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{BedError, Result};
use crate::node::PAUSE_IMAGE;
use crate::pack::{Content, Image};
use crate::process::run;

/// Image of operator, workers, command line and sandbox server.
pub const SEALIGN_IMAGE: &str = "bed.invalid/sealign:test";
/// Image of trainers and model servers.
pub const TRAINER_IMAGE: &str = "bed.invalid/sealign-trainer:test";
/// Image of built-in tasks: this machine's Python and shell tools, as in the embedded sandboxes,
/// so that equal attempts have equal observations.
pub const TASK_IMAGE: &str = "bed.invalid/python:test";

/// Packages whose programs a task image has.
const TASK_PACKAGES: [&str; 7] = ["bash", "coreutils", "dash", "diffutils", "findutils", "grep", "sed"];
const BUSYBOX: &str = "/usr/bin/busybox";
/// Commands of busybox that scripts and probes in trusted images use.
const APPLETS: [&str; 12] =
    ["cat", "cp", "env", "ls", "mkdir", "nc", "nslookup", "rm", "sh", "sleep", "true", "wget"];

/// Where the project's programs lie.
#[derive(Clone, Debug)]
pub struct Built {
    /// Folder of `sealign-operator`, `sealign-worker`, `sealign` and `sealign-trainer`.
    pub programs: PathBuf,
    /// The static `sealign-sandbox`.
    pub sandbox: PathBuf,
    /// Folder of libtorch's libraries.
    pub torch: PathBuf,
}

impl Built {
    /// From SEALIGN_PROGRAMS (a folder like `target/release`) and SEALIGN_SANDBOX (the static server), else where `make
    /// build sandbox-static` puts them.
    pub fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let named = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
        let target = named("CARGO_TARGET_DIR").unwrap_or_else(|| root.join("target"));
        let programs = named("SEALIGN_PROGRAMS").unwrap_or_else(|| target.join("release"));
        let triple = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
        let sandbox =
            named("SEALIGN_SANDBOX").unwrap_or_else(|| target.join(triple).join("release/sealign-sandbox"));
        for needed in [programs.join("sealign-operator"), programs.join("sealign-worker"), sandbox.clone()] {
            if !needed.exists() {
                let missing = needed.display();
                let remedy = "`make build sandbox-static` builds it";
                return Err(BedError::Requirement(format!("{missing} is missing: {remedy}")));
            }
        }
        Ok(Self { programs, sandbox, torch: root.join(".torch/lib") })
    }
}

/// The image of every pod's first container.
pub fn pause() -> Result<Image> {
    let mut image = Image::new("pause", &[PAUSE_IMAGE]);
    image.copy(Path::new(BUSYBOX), None)?;
    image.entrypoint = [BUSYBOX, "tail", "-f", "/dev/null"].map(str::to_owned).to_vec();
    Ok(image)
}

/// Python, a shell and its tools.
pub fn task() -> Result<Image> {
    let mut image = Image::new("task", &[TASK_IMAGE]);
    image.put("repo", Content::Folder(0o755));
    image.put("workspace", Content::Folder(0o755));
    let listed = run(Command::new("dpkg").arg("-L").args(TASK_PACKAGES))?;
    let listed = listed.lines().filter(|path| path.contains("bin/")).map(PathBuf::from);
    let mut programs: Vec<PathBuf> = listed.filter(|path| path.is_file()).collect();
    programs.push("/usr/bin/python3".into());
    let version = fs::canonicalize("/usr/bin/python3").map_err(BedError::file("/usr/bin/python3"))?;
    let library = format!("/usr/lib/{}", version.file_name().unwrap_or_default().to_string_lossy());
    let modules = files_below(Path::new(&library))?;
    for file in programs.iter().chain(&modules) {
        image.copy(file, None)?;
    }
    let loadable = modules.iter().filter(|path| path.extension().is_some_and(|extension| extension == "so"));
    let linked: Vec<&PathBuf> = programs.iter().chain(loadable).collect();
    for library in libraries(&linked, None)? {
        image.copy(&library, None)?;
    }
    for shell in ["sh", "dash"] {
        image.put(&format!("usr/bin/{shell}"), Content::Copy("/usr/bin/dash".into(), 0o755));
    }
    image.entrypoint = vec!["/usr/bin/sleep".into(), "infinity".into()];
    Ok(image)
}

/// Operator, workers, command line and sandbox server.
pub fn sealign(built: &Built, cache: &Path) -> Result<Image> {
    let mut image = trusted("sealign", SEALIGN_IMAGE)?;
    let programs = ["sealign-operator", "sealign-worker", "sealign"].map(|name| built.programs.join(name));
    add_programs(&mut image, &programs, None, cache)?;
    let sandbox = stripped(&built.sandbox, cache)?;
    image.put("usr/local/bin/sealign-sandbox", Content::Copy(sandbox, 0o755));
    Ok(image)
}

/// Trainer and model server, with libtorch.
pub fn trainer(built: &Built, cache: &Path) -> Result<Image> {
    let mut image = trusted("trainer", TRAINER_IMAGE)?;
    add_programs(&mut image, &[built.programs.join("sealign-trainer")], Some(&built.torch), cache)?;
    image.environment.push("LD_LIBRARY_PATH=/usr/local/lib/torch".to_owned());
    image.environment.push("OMP_WAIT_POLICY=passive".to_owned());
    Ok(image)
}

fn trusted(name: &'static str, reference: &str) -> Result<Image> {
    let mut image = Image::new(name, &[reference]);
    image.copy(Path::new(BUSYBOX), None)?;
    for applet in APPLETS {
        image.put(&format!("usr/bin/{applet}"), Content::Link("busybox".to_owned()));
    }
    let authorities = Path::new("/etc/ssl/certs/ca-certificates.crt");
    if authorities.exists() {
        image.copy(authorities, None)?;
    }
    image.put("etc/nsswitch.conf", Content::Text("hosts: files dns\n".to_owned()));
    image.user = String::from("65532:65532");
    Ok(image)
}

fn add_programs(image: &mut Image, programs: &[PathBuf], torch: Option<&Path>, cache: &Path) -> Result<()> {
    for program in programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        image.put(&format!("usr/local/bin/{name}"), Content::Copy(stripped(program, cache)?, 0o755));
    }
    let linked: Vec<&PathBuf> = programs.iter().collect();
    for library in libraries(&linked, torch)? {
        let is_torch = torch.is_some_and(|folder| library.starts_with(folder));
        let name = library.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let place = is_torch.then(|| format!("usr/local/lib/torch/{name}"));
        image.copy(&library, place.as_deref())?;
    }
    Ok(())
}

/// A copy without symbols: debug builds would make archives of a gigabyte.
fn stripped(program: &Path, cache: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::MetadataExt as _;
    let folder = cache.join("stripped");
    fs::create_dir_all(&folder).map_err(BedError::file(&folder))?;
    let metadata = fs::metadata(program).map_err(BedError::file(program))?;
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stem = format!("{name}-{}-{}-{}", metadata.ino(), metadata.mtime(), metadata.mtime_nsec());
    let path = folder.join(&stem);
    if !path.exists() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let other = entry.file_name().to_string_lossy().into_owned();
            let digits = other.strip_prefix(&format!("{name}-")).unwrap_or("x");
            if digits.chars().all(|c| c.is_ascii_digit() || c == '-') {
                let _ = fs::remove_file(entry.path());
            }
        }
        let temporary = folder.join(format!(".{stem}.{}", std::process::id()));
        run(Command::new("strip").arg("-s").arg("-o").arg(&temporary).arg(program))?;
        fs::rename(&temporary, &path).map_err(BedError::file(&path))?;
    }
    Ok(path)
}

/// The shared libraries that `programs` load, the loader included.
fn libraries(programs: &[&PathBuf], further: Option<&Path>) -> Result<BTreeSet<PathBuf>> {
    let mut command = Command::new("ldd");
    command.args(programs);
    if let Some(folder) = further {
        command.env("LD_LIBRARY_PATH", folder);
    }
    // Fails when one of them is static, and has said everything about the others.
    let listed = crate::process::output(&mut command)?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    if let Some(line) = listed.lines().find(|line| line.contains("not found")) {
        return Err(BedError::Requirement(format!("a shared library is missing: {}", line.trim())));
    }
    let paths = listed.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [_, "=>", path, ..] => Some(PathBuf::from(path)),
            [path, address] if path.starts_with('/') && address.starts_with('(') => Some(PathBuf::from(path)),
            _ => None,
        }
    });
    Ok(paths.filter(|path| path.is_file()).collect())
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(BedError::file(folder))?.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() && name != "__pycache__" && name != "test" {
            files.extend(files_below(&path)?);
        } else if path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}
