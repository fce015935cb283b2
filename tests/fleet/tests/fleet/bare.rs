//! The limit of what a control plane can do for a campaign: the same Jobs with the same windows and gradings, made by
//! a loop that remembers everything, writes no status and no round, and would lose all of it in a crash.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use kube::core::DynamicObject;
use kube::runtime::{WatchStreamExt as _, watcher};
use sealign_crds::shared::{QueueSpec, SandboxSpec};
use sealign_crds::{RolloutCampaignSpec, TaskSetSpec};
use sealign_manifest::group::{GroupItems, GroupManifest, GroupRef, PlanManifest, Progress, RoundMap};
use sealign_manifest::key::Stage;
use sealign_manifest::{GradingItem, RolloutItem};
use sealign_operator::cluster::resource;
use sealign_plan::config::{ResolvePlan, ResolveTasks, Run, Work, WorkerConfig};
use sealign_plan::job::JobView;
use sealign_plan::owner::Owner;
use sealign_plan::resources::sandbox::{self, SandboxJob};
use sealign_plan::resources::worker::{self, Program};
use sealign_plan::window::{Candidate, Rank, admit};
use sealign_plan::{Installation, Kind, labels};
use sealign_storage::ArtifactStoreExt as _;
use serde::de::DeserializeOwned;

use crate::control_plane::NAMESPACE;
use crate::site::Site;

/// Time between two looks where nothing was heard.
const LOOK: Duration = Duration::from_millis(100);

/// The loop's means.
struct Loop<'a> {
    site: &'a Site,
    jobs: Api<DynamicObject>,
    installation: Installation,
    /// Jobs as they were heard of last, by name.
    heard: BTreeMap<String, JobView>,
}

/// Where a group stands.
enum Stand {
    Waits(Stage, RoundMap),
    Runs(Stage, String, u32),
    Closed,
}

/// Does the campaign of `site` and returns the time that it took, from its creation to its closed set, and the number
/// of Jobs.
pub async fn run(site: &Site, limit: Duration) -> (Duration, u64) {
    let begun = Instant::now();
    let [set, campaign] = site.apply().await;
    let jobs = Api::namespaced_with(site.client.clone(), NAMESPACE, &resource(Kind::Job));
    let installation = Installation { store_url: site.store_url.clone(), ..Installation::default() };
    let mut bare = Loop { site, jobs, installation, heard: BTreeMap::new() };
    let of_ours = watcher::Config::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::MANAGER));
    let mut news = watcher(bare.jobs.clone(), of_ours).default_backoff().boxed();
    let owners = [Owner::of(Kind::TaskSet, &set), Owner::of(Kind::RolloutCampaign, &campaign)];
    let made = tokio::time::timeout(limit, bare.drive(&owners, &set, &campaign, &mut news)).await;
    (begun.elapsed(), made.expect("the bare loop has no end"))
}

fn spec<T: DeserializeOwned>(object: &DynamicObject) -> T {
    serde_json::from_value(object.data["spec"].clone()).unwrap()
}

type News = dyn Stream<Item = watcher::Result<watcher::Event<DynamicObject>>> + Send + Unpin;

impl Loop<'_> {
    async fn drive(
        &mut self,
        [tasks, owner]: &[Owner; 2],
        set: &DynamicObject,
        campaign: &DynamicObject,
        news: &mut News,
    ) -> u64 {
        let config = ResolveTasks { keys: tasks.keys.clone(), spec: spec::<TaskSetSpec>(set) };
        self.finish(tasks, Program::Resolve, &WorkerConfig::ResolveTasks(config), news).await;
        let spec: RolloutCampaignSpec = spec(campaign);
        let work = Work::Campaign(spec.clone());
        let (keys, task_keys) = (owner.keys.clone(), tasks.keys.clone());
        let config = ResolvePlan { keys: keys.clone(), work: work.clone(), task_keys: task_keys.clone() };
        self.finish(owner, Program::Resolve, &WorkerConfig::ResolvePlan(config), news).await;
        let config = Run { keys: keys.clone(), owner: owner.object_ref(), work, task_keys };
        let runner = self.worker(owner, Program::Run, &WorkerConfig::Run(config)).await;
        while !self.is_ready(owner, &runner).await {
            self.hear(news).await;
        }
        let plan: PlanManifest = self.site.store.get_json(&keys.plan()).await.unwrap().unwrap();
        let mut stands = Vec::new();
        for group in &plan.groups {
            let items: GroupItems =
                self.site.store.get_json(&keys.group_items(&group.id)).await.unwrap().unwrap();
            let items = items.items.iter().map(RolloutItem::key).collect();
            stands.push(Stand::Waits(Stage::Rollout, map(&group.id, Stage::Rollout, items)));
        }
        let mut made = 3;
        while stands.iter().any(|stand| !matches!(stand, Stand::Closed)) {
            self.advance(owner, &plan.groups, &mut stands).await;
            made += self.start(owner, &spec, &plan.groups, &mut stands).await;
            self.hear(news).await;
        }
        while !self.is_over(&runner) {
            self.hear(news).await;
        }
        made
    }

    /// Waits for news of Jobs, and takes it.
    async fn hear(&mut self, news: &mut News) {
        let mut wait = LOOK;
        while let Ok(Some(event)) = tokio::time::timeout(wait, news.next()).await {
            if let Ok(watcher::Event::Apply(job) | watcher::Event::InitApply(job)) = event {
                self.heard.insert(job.metadata.name.clone().unwrap(), JobView::read(&job));
            }
            // What else is there already.
            wait = Duration::ZERO;
        }
    }

    fn is_over(&self, name: &str) -> bool {
        self.heard.get(name).is_some_and(|job| job.is_over)
    }

    async fn is_ready(&self, owner: &Owner, runner: &str) -> bool {
        let progress: Option<Progress> = self.site.store.get_json(&owner.keys.progress()).await.unwrap();
        self.heard.get(runner).is_some_and(|job| job.is_ready)
            && progress.is_some_and(|progress| progress.ready)
    }

    async fn create(&self, job: &DynamicObject) -> String {
        let created = self.jobs.create(&PostParams::default(), job).await.unwrap();
        created.metadata.name.unwrap()
    }

    async fn worker(&self, owner: &Owner, program: Program, config: &WorkerConfig) -> String {
        let job = worker::job(owner, &self.installation, program, config, &QueueSpec::default(), 0).unwrap();
        self.create(&job).await
    }

    async fn finish(&mut self, owner: &Owner, program: Program, config: &WorkerConfig, news: &mut News) {
        let name = self.worker(owner, program, config).await;
        while !self.is_over(&name) {
            self.hear(news).await;
        }
    }

    /// Takes groups whose Job is over to what follows it.
    async fn advance(&self, owner: &Owner, groups: &[GroupRef], stands: &mut [Stand]) {
        for (group, stand) in groups.iter().zip(stands) {
            let Stand::Runs(stage, name, open) = stand else { continue };
            if let Some(job) = self.heard.get(name) {
                *open = job.open();
            }
            if !self.is_over(name) {
                continue;
            }
            let key = owner.keys.group_manifest(&group.id, *stage);
            let Some(manifest) = self.site.store.get_json::<GroupManifest>(&key).await.unwrap() else {
                continue;
            };
            self.jobs.delete(name, &DeleteParams::background()).await.unwrap();
            *stand = if *stage == Stage::Grade || manifest.gradings.is_empty() {
                Stand::Closed
            } else {
                let items = manifest.gradings.iter().map(GradingItem::key).collect();
                Stand::Waits(Stage::Grade, map(&group.id, Stage::Grade, items))
            };
        }
    }

    /// Starts what the window admits.
    async fn start(
        &self,
        owner: &Owner,
        spec: &RolloutCampaignSpec,
        groups: &[GroupRef],
        stands: &mut [Stand],
    ) -> u64 {
        let parallelism = u32::try_from(spec.parallelism).unwrap();
        let (mut live, mut candidates) = (Vec::new(), Vec::new());
        for (position, stand) in stands.iter().enumerate() {
            match stand {
                Stand::Runs(_, _, open) => live.push(*open),
                Stand::Waits(stage, map) => {
                    let rank = if *stage == Stage::Grade { Rank::Grading } else { Rank::NewGroup };
                    candidates.push(Candidate {
                        rank,
                        position,
                        open: u32::try_from(map.items.len()).unwrap(),
                    });
                }
                Stand::Closed => {}
            }
        }
        let admitted = admit(&live, &candidates, parallelism);
        for position in &admitted {
            let Stand::Waits(stage, map) = &stands[*position] else { continue };
            let sandbox = SandboxSpec::default();
            let job = SandboxJob {
                map,
                image: &groups[*position].image,
                root: "/repo",
                sandbox: &sandbox,
                queue: &QueueSpec::default(),
                parallelism,
                wall_seconds: i64::from(spec.limits.wall_seconds),
            };
            let job = sandbox::job(owner, &self.installation, &job).unwrap();
            let open = u32::try_from(map.items.len()).unwrap();
            stands[*position] = Stand::Runs(*stage, self.create(&job).await, open);
        }
        admitted.len() as u64
    }
}

fn map(group: &str, stage: Stage, items: Vec<sealign_manifest::ItemKey>) -> RoundMap {
    RoundMap { group: group.to_owned(), stage, round: 0, barren: 0, items }
}
