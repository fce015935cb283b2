//! Learning how a pod ended once its sandbox stopped answering.

use std::sync::Arc;
use std::time::Duration;

use sealign_manifest::group::TryCause;
use tokio::sync::watch;

use super::pods::{Fate, Pod, fate};

/// The pods as they were seen last.
pub type Seen = Arc<Vec<Arc<Pod>>>;

/// Time until a kubelet or the embedded cluster has said how a pod ended. A pod that still counts as running then is
/// there and does not answer.
const WORD_PATIENCE: Duration = Duration::from_secs(10);

/// Answers how pods end.
#[derive(Clone, Debug)]
pub struct Ends {
    pods: watch::Receiver<Seen>,
}

impl Ends {
    /// Follows the pods that the driver publishes.
    pub fn new(pods: watch::Receiver<Seen>) -> Self {
        Self { pods }
    }

    /// Waits for the word on a pod whose sandbox does not answer; `was_claimed` as in [`fate`].
    pub async fn of(&self, uid: &str, silence: &str, was_claimed: bool) -> Fate {
        let mut pods = self.pods.clone();
        let has_word =
            |seen: &Seen| seen.iter().find(|pod| pod.uid == uid).is_none_or(|pod| pod.phase.is_terminal());
        let word = tokio::time::timeout(WORD_PATIENCE, pods.wait_for(has_word)).await;
        match word {
            Ok(Ok(seen)) => fate(seen.iter().find(|pod| pod.uid == uid).map(Arc::as_ref), was_claimed),
            // The driver is gone, or the pod is alive and mute.
            Ok(Err(_)) | Err(_) => {
                Fate::Failed(TryCause::Sandbox, format!("the pod runs and does not answer: {silence}"))
            }
        }
    }
}
