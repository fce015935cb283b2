//! The lease: one replica works, the others stand by. A process that loses it ends, as users of client-go expect.

use kube::Client;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Seconds that a lease is valid; the holder renews it [`GRACE_SECONDS`] before that.
const DURATION_SECONDS: u64 = 15;
/// Seconds before the end at which the lease is renewed: a request that takes 8 s is still in time.
const GRACE_SECONDS: u64 = 10;

/// A lease that is held or waited for.
pub struct Leadership {
    state: watch::Receiver<bool>,
    task: JoinHandle<Result<LeaseManager, LeaseManagerError>>,
}

impl Leadership {
    /// Begins to ask for the lease `name`.
    ///
    /// # Errors
    /// When the Lease can neither be read nor created.
    pub async fn seek(
        client: Client,
        namespace: &str,
        name: &str,
        identity: &str,
    ) -> Result<Self, LeaseManagerError> {
        let manager = LeaseManagerBuilder::new(client, name)
            .with_namespace(namespace)
            .with_identity(identity)
            .with_duration(DURATION_SECONDS)
            .with_grace(GRACE_SECONDS)
            .build()
            .await?;
        let (state, task) = manager.watch().await;
        Ok(Self { state, task })
    }

    /// Waits until the lease is ours. False when it never will be: the task that asks has ended.
    pub async fn gained(&mut self) -> bool {
        self.state.wait_for(|is_leader| *is_leader).await.is_ok()
    }

    /// Waits until the lease is not ours any more.
    pub async fn lost(&mut self) {
        // A closed channel means that nobody renews the lease: it is as good as lost.
        let _ = self.state.wait_for(|is_leader| !*is_leader).await;
    }

    /// Gives the lease back, so that another replica need not wait for its end.
    pub async fn release(self) {
        drop(self.state);
        match self.task.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the lease was not given back"),
            Err(error) => tracing::warn!(%error, "the lease task ended badly"),
        }
    }
}
