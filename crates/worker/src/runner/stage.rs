//! What the board keeps of a group, a stage and an item.

use std::collections::BTreeMap;

use sealign_manifest::ItemKey;
use sealign_manifest::group::TryCause;
use sealign_manifest::key::Stage;

#[derive(Debug, Default)]
pub(super) struct Item {
    /// Policy of a rollout; empty for gradings.
    pub(super) policy: String,
    pub(super) state: State,
    pub(super) tries: BTreeMap<u32, TryCause>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    Open,
    InHand,
    Recorded,
}

#[derive(Debug, Default)]
pub(super) struct StageBoard {
    pub(super) items: BTreeMap<ItemKey, Item>,
    pub(super) unrecorded: usize,
    /// Highest round that was seen.
    pub(super) round: Option<u32>,
    pub(super) progress: StageProgress,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum StageProgress {
    /// Its items are not known yet.
    #[default]
    Unknown,
    Running,
    Closing,
    Closed,
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) image: String,
    pub(super) rollout: StageBoard,
    pub(super) grade: StageBoard,
}

impl Group {
    pub(super) fn of_image(image: &str) -> Self {
        Self { image: image.to_owned(), rollout: StageBoard::default(), grade: StageBoard::default() }
    }

    pub(super) fn stage(&mut self, stage: Stage) -> &mut StageBoard {
        match stage {
            Stage::Rollout => &mut self.rollout,
            Stage::Grade => &mut self.grade,
        }
    }
}

impl StageBoard {
    pub(super) fn begin(&mut self, items: impl IntoIterator<Item = (ItemKey, String)>) {
        self.items =
            items.into_iter().map(|(key, policy)| (key, Item { policy, ..Item::default() })).collect();
        self.unrecorded = self.items.len();
        self.progress = StageProgress::Running;
    }
}

pub(super) fn describe(causes: &[TryCause]) -> String {
    let mut counts: BTreeMap<&TryCause, u32> = BTreeMap::new();
    for cause in causes {
        *counts.entry(cause).or_default() += 1;
    }
    let parts: Vec<String> = counts
        .into_iter()
        .map(|(cause, count)| {
            let name = serde_json::to_value(cause).ok().and_then(|value| value.as_str().map(str::to_owned));
            format!("{} x {count}", name.unwrap_or_default())
        })
        .collect();
    format!("every try failed: {}", parts.join(", "))
}
