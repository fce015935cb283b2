//! How a pod becomes a process: programs, variables, and a thread that spawns.
//!
//! Children die with this process, however it ends: each asks the kernel for a kill when its parent goes. The kernel means
//! the parent *thread*, so one thread that lives as long as the cluster spawns them all ([`Spawner`]).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::core::v1::EnvVar;
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot};

use crate::job_spec::JobSpec;

/// Spawn requests that wait at most; each waits a few milliseconds.
const ORDERS_MAX: usize = 256;
/// Prefix of variables of our own environment that stand for Secrets: `SEALIGN_SECRET_<NAME>_<KEY>`.
pub const SECRET_PREFIX: &str = "SEALIGN_SECRET_";

/// Why a pod has no process.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no such program.
    #[error("program `{program}` is neither beside {} nor on PATH; remedy: `make build`, or install it", beside.display())]
    NoProgram {
        /// Its name.
        program: String,
        /// Where it was looked for first.
        beside: PathBuf,
    },
    /// A Secret is not there.
    #[error(
        "variable {variable} takes key `{key}` of Secret `{secret}`; embedded runs read it from {expected}, which is not set"
    )]
    NoSecret {
        /// The variable of the container.
        variable: String,
        /// Name of the Secret.
        secret: String,
        /// Key within it.
        key: String,
        /// The variable of ours that stands for it.
        expected: String,
    },
    /// A variable comes from something that is not here.
    #[error("variable {variable} comes from a source that the embedded cluster does not have")]
    NoSource {
        /// The variable.
        variable: String,
    },
    /// The system refused.
    #[error("{program} did not start: {source}")]
    Spawn {
        /// The program.
        program: String,
        /// What the system says.
        source: io::Error,
    },
    /// The sandbox cannot be built.
    #[error("{0}")]
    Sandbox(#[from] crate::bubblewrap::BubblewrapError),
}

/// Where programs are found.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The folder that is looked into before PATH: that of our own program.
    pub beside: PathBuf,
    /// Programs that stand for others, by the name in the container's command.
    pub replaced: BTreeMap<String, PathBuf>,
}

impl Default for Programs {
    fn default() -> Self {
        let own = std::env::current_exe().ok();
        let beside = own.as_deref().and_then(Path::parent).unwrap_or(Path::new("/usr/bin")).to_owned();
        Self { beside, replaced: BTreeMap::new() }
    }
}

impl Programs {
    /// The file of a program. A path in the command names a file of the image, of which only the last part counts here,
    /// unless there is such a file on this machine (`/bin/sh`).
    ///
    /// # Errors
    /// [`StartError::NoProgram`].
    pub fn find(&self, program: &str) -> Result<PathBuf, StartError> {
        let name = program.rsplit('/').next().unwrap_or(program);
        if let Some(replaced) = self.replaced.get(name) {
            return Ok(replaced.clone());
        }
        let beside = self.beside.join(name);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let on_path = std::env::split_paths(&path).map(|folder| folder.join(name));
        let given = program.starts_with('/').then(|| PathBuf::from(program));
        std::iter::once(beside)
            .chain(given)
            .chain(on_path)
            .find(|file| file.is_file())
            .ok_or_else(|| StartError::NoProgram { program: name.to_owned(), beside: self.beside.clone() })
    }
}

/// What a pod is told about itself.
#[derive(Clone, Debug)]
pub struct PodIdentity<'a> {
    /// Name.
    pub name: &'a str,
    /// UID.
    pub uid: &'a str,
    /// Completion index.
    pub index: u32,
}

/// The variables of a pod's container, in order.
///
/// # Errors
/// [`StartError`] for Secrets and sources that are not here.
pub fn variables(
    spec: &JobSpec,
    pod: &PodIdentity<'_>,
    secret: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<(String, String)>, StartError> {
    let mut variables = vec![("JOB_COMPLETION_INDEX".to_owned(), pod.index.to_string())];
    for entry in &spec.env {
        if let Some(value) = value_of(entry, spec, pod, secret)? {
            variables.push((entry.name.clone(), value));
        }
    }
    Ok(variables)
}

fn value_of(
    entry: &EnvVar,
    spec: &JobSpec,
    pod: &PodIdentity<'_>,
    secret: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<String>, StartError> {
    let no_source = || StartError::NoSource { variable: entry.name.clone() };
    let Some(source) = &entry.value_from else { return Ok(Some(entry.value.clone().unwrap_or_default())) };
    if let Some(field) = &source.field_ref {
        let value = match field.field_path.as_str() {
            "metadata.uid" => pod.uid,
            "metadata.name" => pod.name,
            "metadata.namespace" => &spec.key.namespace,
            "status.podIP" => "127.0.0.1",
            _ => return Err(no_source()),
        };
        return Ok(Some(value.to_owned()));
    }
    let Some(wanted) = &source.secret_key_ref else { return Err(no_source()) };
    let expected = secret_variable(&wanted.name, &wanted.key);
    match secret(&expected) {
        Some(value) => Ok(Some(value)),
        None if wanted.optional == Some(true) => Ok(None),
        None => Err(StartError::NoSecret {
            variable: entry.name.clone(),
            secret: wanted.name.clone(),
            key: wanted.key.clone(),
            expected,
        }),
    }
}

/// The variable of our environment that stands for a key of a Secret.
pub fn secret_variable(secret: &str, key: &str) -> String {
    let upper = |text: &str| -> String {
        text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
    };
    format!("{SECRET_PREFIX}{}_{}", upper(secret), upper(key))
}

/// The command of a trusted pod: our environment and the container's, a process group of its own, dead with its parent.
///
/// # Errors
/// [`StartError::NoProgram`].
pub fn trusted(
    programs: &Programs,
    spec: &JobSpec,
    variables: &[(String, String)],
) -> Result<Command, StartError> {
    let program = spec.command.first().map_or("", String::as_str);
    let mut command = Command::new(programs.find(program)?);
    command.args(spec.command.iter().skip(1).map(|word| expand(word, variables)));
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_secret(name)) {
        command.env_remove(name);
    }
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command.process_group(0);
    die_with_parent(&mut command);
    Ok(command)
}

fn is_secret(name: &OsString) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(SECRET_PREFIX))
}

/// `$(NAME)` in a container's command stands for a variable, as in Kubernetes.
fn expand(word: &str, variables: &[(String, String)]) -> String {
    variables.iter().fold(word.to_owned(), |word, (name, value)| word.replace(&format!("$({name})"), value))
}

#[expect(unsafe_code, reason = "std has no way to ask for a signal at the parent's death")]
fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let ask = move || {
        // SAFETY: prctl and getppid take and give integers, and both may be called between fork and exec.
        let (asked, is_orphan) = unsafe {
            let asked = libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            (asked, u32::try_from(libc::getppid()) != Ok(parent))
        };
        // A parent that died before the request sends nothing any more.
        if asked != 0 || is_orphan { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: `ask` only makes the two system calls above and allocates nothing.
    unsafe { command.pre_exec(ask) };
}

/// Sends a signal to the process group of a child that has not been waited for.
#[expect(unsafe_code, reason = "std can only kill one process, and a trainer has children of its own")]
pub fn signal_group(child: &Child, signal: i32) {
    let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) else { return };
    // SAFETY: kill takes integers; the group exists until its leader has been waited for, which `id` says it has not.
    unsafe { libc::kill(-pid, signal) };
}

struct Order {
    command: Command,
    answer: oneshot::Sender<io::Result<Child>>,
}

/// A thread that spawns; its end is the end of every child.
#[derive(Clone, Debug)]
pub struct Spawner {
    orders: mpsc::Sender<Order>,
}

impl std::fmt::Debug for Order {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Order")
    }
}

impl Spawner {
    /// Starts the thread; children are waited for by the runtime that this is called in.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start() -> io::Result<Self> {
        let (orders, mut received) = mpsc::channel::<Order>(ORDERS_MAX);
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new().name("spawner".to_owned()).spawn(move || {
            let _context = runtime.enter();
            while let Some(Order { command, answer }) = received.blocking_recv() {
                let mut command = tokio::process::Command::from(command);
                // An asker that left drops the child, which kills it.
                drop(answer.send(command.kill_on_drop(true).spawn()));
            }
        })?;
        Ok(Self { orders })
    }

    /// Spawns `command`.
    ///
    /// # Errors
    /// What the system says.
    pub async fn spawn(&self, command: Command) -> io::Result<Child> {
        let gone = || io::Error::other("the spawning thread has ended");
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order { command, answer }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(env: &Value) -> JobSpec {
        let job = json!({
            "metadata": { "name": "j", "namespace": "demo", "uid": "u" },
            "spec": { "completionMode": "Indexed", "completions": 1, "backoffLimitPerIndex": 0,
                "template": { "spec": { "containers": [{ "name": "main", "env": env,
                    "command": ["sh", "-c", "$(A)"] }] } } },
        });
        JobSpec::read(&serde_json::from_value(job).unwrap()).unwrap()
    }

    const POD: PodIdentity<'static> = PodIdentity { name: "j-0", uid: "pod-uid", index: 0 };

    #[test]
    fn variables_come_from_the_container_the_pod_and_secrets_in_our_environment() {
        let spec = spec(&json!([
            { "name": "A", "value": "1" },
            { "name": "UID", "valueFrom": { "fieldRef": { "fieldPath": "metadata.uid" } } },
            { "name": "KEY", "valueFrom": { "secretKeyRef": { "name": "open-ai", "key": "api-key" } } },
        ]));
        let secret = |name: &str| (name == "SEALIGN_SECRET_OPEN_AI_API_KEY").then(|| "s".to_owned());
        let found: BTreeMap<_, _> = variables(&spec, &POD, &secret).unwrap().into_iter().collect();
        assert_eq!(found["A"], "1");
        assert_eq!(found["UID"], "pod-uid");
        assert_eq!(found["KEY"], "s");
        assert_eq!(found["JOB_COMPLETION_INDEX"], "0");
        let error = variables(&spec, &POD, &|_| None).unwrap_err().to_string();
        assert!(error.contains("SEALIGN_SECRET_OPEN_AI_API_KEY"), "{error}");
    }

    #[test]
    fn an_optional_secret_may_be_missing() {
        let env = json!([{ "name": "K", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k", "optional": true } } }]);
        assert_eq!(variables(&spec(&env), &POD, &|_| None).unwrap().len(), 1);
    }

    #[test]
    fn a_missing_program_is_an_error_with_the_remedy() {
        let error = Programs::default().find("sealign-no-such-program").unwrap_err().to_string();
        assert!(error.contains("make build"), "{error}");
        assert_eq!(Programs::default().find("/bin/sh").unwrap(), PathBuf::from("/bin/sh"));
    }

    #[test]
    fn commands_may_name_variables() {
        let variables = vec![("A".to_owned(), "x y".to_owned())];
        let command = trusted(&Programs::default(), &spec(&json!([])), &variables).unwrap();
        assert_eq!(command.get_args().last().unwrap(), "x y");
    }
}
