//! A cluster as somebody at a terminal has it: kubectl, helm, and a client, with one kubeconfig.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::error::{BedError, Result};
use crate::process::{run, until};

/// Names an existing cluster's kubeconfig: tests that can do without a bed's powers then use that one.
pub const KUBECONFIG_VARIABLE: &str = "SEALIGN_TEST_KUBECONFIG";

/// Access to a cluster.
#[derive(Clone, Debug)]
pub struct Session {
    kubeconfig: PathBuf,
    search_path: String,
    folder: PathBuf,
}

impl Session {
    /// With the kubeconfig at `kubeconfig`, programs from `search_path`, and `folder` for what they keep.
    pub fn new(kubeconfig: PathBuf, search_path: String, folder: &Path) -> Self {
        Self { kubeconfig, search_path, folder: folder.to_owned() }
    }

    /// The existing cluster that the environment names.
    pub fn existing() -> Option<Self> {
        let kubeconfig = std::env::var_os(KUBECONFIG_VARIABLE).filter(|value| !value.is_empty())?;
        let search_path = std::env::var("PATH").unwrap_or_default();
        Some(Self::new(kubeconfig.into(), search_path, &std::env::temp_dir()))
    }

    /// Path of the kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A client.
    #[cfg(feature = "client")]
    pub async fn client(&self) -> anyhow::Result<kube::Client> {
        let read = kube::config::Kubeconfig::read_from(&self.kubeconfig)?;
        let options = kube::config::KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(read, &options).await?;
        Ok(kube::Client::try_from(config)?)
    }

    /// A program that talks to this cluster: `kubectl`, `helm`.
    pub fn tool(&self, name: &str) -> Command {
        // The search of `Command` goes by this process's PATH, so that the path is found here.
        let found =
            self.search_path.split(':').map(|folder| Path::new(folder).join(name)).find(|path| path.exists());
        let mut command = Command::new(found.unwrap_or_else(|| name.into()));
        command.env("KUBECONFIG", &self.kubeconfig).env("PATH", &self.search_path);
        let kept = [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")];
        for (variable, below) in kept {
            command.env(variable, self.folder.join("helm").join(below));
        }
        command
    }

    /// Runs kubectl and returns what it printed.
    pub fn kubectl(&self, words: &[&str]) -> Result<String> {
        run(self.tool("kubectl").args(words))
    }

    /// One object, or several as a List, as JSON.
    pub fn get(&self, words: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "-o", "json"], words].concat())?;
        serde_json::from_str(&text)
            .map_err(|error| BedError::Command { command: "kubectl get".into(), output: error.to_string() })
    }

    /// Applies documents (YAML or JSON).
    pub fn apply(&self, documents: &str) -> Result<()> {
        let mut command = self.tool("kubectl");
        command.args(["apply", "--server-side", "-f", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let start = |source| BedError::Start { program: "kubectl".into(), source };
        let mut child = command.spawn().map_err(start)?;
        if let Some(mut input) = child.stdin.take() {
            // A kubectl that ends early says why on its own.
            let _ = input.write_all(documents.as_bytes());
        }
        let done = child.wait_with_output().map_err(start)?;
        if done.status.success() {
            return Ok(());
        }
        let output = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        Err(BedError::Command { command: "kubectl apply".into(), output })
    }

    /// Waits for a condition of an object, as a user would.
    pub fn wait(&self, condition: &str, object: &str, namespace: &str, limit: Duration) -> Result<()> {
        let condition = format!("--for=condition={condition}");
        let timeout = format!("--timeout={}s", limit.as_secs());
        self.kubectl(&["wait", &condition, object, "-n", namespace, &timeout]).map(drop)
    }

    /// Looks at an object (or a list) again and again until `is_so`, for at most `limit`.
    pub fn watch(
        &self,
        words: &[&str],
        limit: Duration,
        what: &str,
        is_so: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = String::new();
        let look = || match self.get(words) {
            Ok(seen) if is_so(&seen) => Some(seen),
            Ok(seen) => {
                last = seen.to_string();
                None
            }
            Err(error) => {
                last = error.to_string();
                None
            }
        };
        let found = until(limit, look);
        found.ok_or_else(|| BedError::Deadline {
            what: format!("no {what}"),
            seconds: limit.as_secs(),
            detail: last.chars().take(3_000).collect(),
        })
    }
}
