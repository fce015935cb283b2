//! A bed: start it, use it, drop it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::control_plane::{self, AUDIT_POLICY};
use crate::error::{BedError, Result};
use crate::images::{self, Built};
use crate::keys::Keys;
use crate::network;
use crate::node;
use crate::pack::Image;
use crate::place::Place;
use crate::process::{Process, output, until};
use crate::programs::Programs;
use crate::services::{self, Bucket};
use crate::session::Session;
use crate::sweep;

/// Seconds for nodes to become ready; 4 s on an idle machine.
const NODES_SECONDS: u64 = 180;

/// What a bed is made of.
#[derive(Clone, Debug)]
pub struct BedOptions {
    /// Real nodes, 1 to 9.
    pub nodes: u8,
    /// Fake nodes, played by kwok.
    pub fake_nodes: u16,
    /// Whether NetworkPolicies are enforced.
    pub policies: bool,
    /// Whether the nodes have the project's images (they must have been built).
    pub images: bool,
    /// Whether the nodes have the trainer's image too: half a gigabyte each.
    pub trainer: bool,
}

impl Default for BedOptions {
    fn default() -> Self {
        Self { nodes: 2, fake_nodes: 0, policies: true, images: true, trainer: false }
    }
}

/// A running cluster. Everything of it goes when it is dropped.
#[derive(Debug)]
pub struct Bed {
    place: Place,
    programs: Programs,
    keys: Keys,
    session: Session,
    bucket: Bucket,
    processes: Vec<Process>,
    nodes: Vec<Option<Process>>,
    began: Instant,
}

impl Bed {
    /// Brings a cluster up: its nodes are ready and pods can be created.
    ///
    /// # Errors
    /// [`BedError::Requirement`] where this machine cannot have one; others after everything was removed again.
    pub fn start(options: &BedOptions) -> Result<Self> {
        let began = Instant::now();
        let programs = Programs::find()?;
        let place = Place::claim()?;
        sweep::sweep(&place)?;
        for folder in ["log", "pid", "images"] {
            let path = place.folder().join(folder);
            fs::create_dir_all(&path).map_err(BedError::file(path))?;
        }
        sweep::save_settings(&place)?;
        sweep::on_signals(&place)?;
        let made = Self::assemble(&place, &programs, options);
        let (keys, bucket, processes, nodes) = match made {
            Ok(parts) => parts,
            Err(error) => {
                keep_logs(&place);
                sweep::sweep(&place)?;
                return Err(error);
            }
        };
        // From here on a failure drops the bed.
        let session = Session::new(keys.path("admin.kubeconfig"), programs.search_path(), place.folder());
        let bed = Self { place, programs, keys, session, bucket, processes, nodes, began };
        bed.wait_nodes(options.nodes)?;
        bed.wait_accounts()?;
        bed.session.apply(&services::dns_objects(&bed.place))?;
        if options.fake_nodes > 0 {
            bed.session.apply(&services::fake_nodes(options.fake_nodes))?;
        }
        Ok(bed)
    }

    #[expect(clippy::type_complexity, reason = "the parts of one struct, on their only way to it")]
    fn assemble(
        place: &Place,
        programs: &Programs,
        options: &BedOptions,
    ) -> Result<(Keys, Bucket, Vec<Process>, Vec<Option<Process>>)> {
        network::make(place, options.nodes)?;
        let keys = Keys::make(place, options.nodes)?;
        let audit = place.folder().join("audit.yaml");
        fs::write(&audit, AUDIT_POLICY).map_err(BedError::file(audit))?;
        let mut processes = control_plane::start_api(place, programs, &keys)?;
        lay_images(place, options)?;
        let (store, bucket) = services::start_store(place, programs)?;
        processes.push(store);
        let nodes = (1..=options.nodes).map(|node| node::start(place, programs, &keys, node).map(Some));
        let nodes = nodes.collect::<Result<Vec<_>>>()?;
        control_plane::wait_ready(place, &keys, &mut processes)?;
        processes.extend(control_plane::start_controllers(place, programs, &keys)?);
        processes.push(services::start_dns(place, programs, &keys)?);
        node::let_join(place)?;
        if options.policies {
            for node in 1..=options.nodes {
                processes.push(services::start_policies(place, programs, &keys, node)?);
            }
        }
        if options.fake_nodes > 0 {
            processes.push(services::start_fake_nodes(place, programs, &keys)?);
        }
        Ok((keys, bucket, processes, nodes))
    }

    /// The cluster as its administrator sees it.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The S3 server.
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// Where the S3 server keeps the bucket: a file an object.
    pub fn bucket_folder(&self) -> PathBuf {
        services::bucket_folder(&self.place)
    }

    /// Where the bed lives.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Time since the start was asked for.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Kills node `node` as a power cut would.
    pub fn kill_node(&mut self, node: u8) {
        let slot = self.nodes.get_mut(usize::from(node).wrapping_sub(1));
        if let Some(process) = slot.and_then(Option::take) {
            process.kill();
        }
    }

    /// Boots a killed node again.
    pub fn boot_node(&mut self, node: u8) -> Result<()> {
        let process = node::start(&self.place, &self.programs, &self.keys, node)?;
        if let Some(slot) = self.nodes.get_mut(usize::from(node).wrapping_sub(1)) {
            *slot = Some(process);
        }
        Ok(())
    }

    /// Starts Prometheus for `monitors` (of [`crate::scrape`]) and rule files. It goes with the bed.
    pub fn start_prometheus(&mut self, monitors: &[serde_json::Value], rules: &[String]) -> Result<()> {
        self.processes.extend(services::start_prometheus(&self.place, &self.keys, monitors, rules)?);
        Ok(())
    }

    fn wait_nodes(&self, count: u8) -> Result<()> {
        let ready =
            |seen: &str| seen.lines().filter(|line| line.split_whitespace().nth(1) == Some("Ready")).count();
        let list = || {
            self.session.kubectl(&["get", "nodes", "--no-headers", "-l", "type!=kwok"]).unwrap_or_default()
        };
        until(Duration::from_secs(NODES_SECONDS), || (ready(&list()) >= usize::from(count)).then_some(()))
            .ok_or_else(|| {
                keep_logs(&self.place);
                let what = format!("no {count} ready nodes");
                BedError::Deadline { what, seconds: NODES_SECONDS, detail: list() }
            })
    }

    /// Pods can be created once the default account exists.
    fn wait_accounts(&self) -> Result<()> {
        let found = until(Duration::from_secs(NODES_SECONDS), || {
            self.session.kubectl(&["get", "serviceaccount", "default", "-n", "default"]).ok()
        });
        found.map(drop).ok_or_else(|| BedError::Deadline {
            what: "no default service account".into(),
            seconds: NODES_SECONDS,
            detail: self.processes.iter().map(Process::log_tail).collect(),
        })
    }

    /// Keeps the logs where the next reader finds them, and says where.
    pub fn keep_logs(&self) {
        keep_logs(&self.place);
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for process in self.nodes.drain(..).flatten().chain(self.processes.drain(..).rev()) {
            process.kill();
        }
        if std::thread::panicking() {
            keep_logs(&self.place);
        }
        if let Err(error) = sweep::sweep(&self.place) {
            eprintln!("bed {}: {error}", self.place.number());
        }
    }
}

/// Puts the images where the nodes look for them.
fn lay_images(place: &Place, options: &BedOptions) -> Result<()> {
    let cache = place.shared().join("packed");
    let mut wanted: Vec<Image> = vec![images::pause()?];
    if options.images {
        let built = Built::find()?;
        wanted.extend([images::task()?, images::sealign(&built, &cache)?]);
        if options.trainer {
            wanted.push(images::trainer(&built, &cache)?);
        }
    }
    for image in wanted {
        let archive = image.pack(&cache)?;
        let path = node::image_folder(place).join(format!("{}.tar", image.name));
        fs::hard_link(&archive, &path).map_err(BedError::file(path))?;
    }
    Ok(())
}

/// Copies a failed bed's logs to where the next reader finds them.
fn keep_logs(place: &Place) {
    let kept = place.shared().join(format!("failed-{}", place.number()));
    let _ = fs::remove_dir_all(&kept);
    let copied = fs::create_dir_all(&kept).is_ok()
        && output(
            Command::new("sh")
                .arg("-c")
                .arg("cp -r log \"$0\"; for n in node/*; do mkdir -p \"$0/$n\"; cp -r \"$n/log\" \"$0/$n\"; done")
                .arg(&kept)
                .current_dir(place.folder()),
        )
        .is_ok();
    if copied {
        eprintln!("logs of the bed: {}", kept.display());
    }
}
