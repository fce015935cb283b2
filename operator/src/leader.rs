//! The lease: one replica works, the others stand by. A process that loses it ends, as users of client-go expect.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Seconds that a lease is valid; the holder renews it [`GRACE_SECONDS`] before that.
const DURATION_SECONDS: u64 = 15;
/// Seconds before the end at which the lease is renewed: a request that takes 8 s is still in time.
const GRACE_SECONDS: u64 = 10;
/// Time between two looks whether the holder has given the lease back: without them a standby sleeps until the end of the
/// time that it last saw.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a replica asks with.
struct Candidate {
    client: Client,
    namespace: String,
    name: String,
    identity: String,
}

impl Candidate {
    async fn ask(&self) -> Result<Asking, LeaseManagerError> {
        let manager = LeaseManagerBuilder::new(self.client.clone(), &self.name)
            .with_namespace(&self.namespace)
            .with_identity(&self.identity)
            .with_duration(DURATION_SECONDS)
            .with_grace(GRACE_SECONDS)
            .build()
            .await?;
        let (state, task) = manager.watch().await;
        Ok(Asking { state, task })
    }

    /// Waits until nobody holds the lease.
    async fn is_vacant(&self) {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            // What cannot be read says nothing; the lease's own clock goes on.
            let Ok(Some(lease)) = leases.get_opt(&self.name).await else { continue };
            let holder = lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
            if holder.is_empty() {
                return;
            }
        }
    }
}

/// A task that asks for the lease and keeps it.
struct Asking {
    state: watch::Receiver<bool>,
    task: JoinHandle<Result<LeaseManager, LeaseManagerError>>,
}

/// A lease that is held or waited for.
pub struct Leadership {
    candidate: Candidate,
    asking: Asking,
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
        let (namespace, name, identity) = (namespace.to_owned(), name.to_owned(), identity.to_owned());
        let candidate = Candidate { client, namespace, name, identity };
        let asking = candidate.ask().await?;
        Ok(Self { candidate, asking })
    }

    /// Waits until the lease is ours. False when it never will be: the task that asks has ended.
    pub async fn gained(&mut self) -> bool {
        loop {
            tokio::select! {
                biased;
                state = self.asking.state.wait_for(|is_leader| *is_leader) => return state.is_ok(),
                () = self.candidate.is_vacant() => {}
            }
            // Asked anew, it is taken at once by one of those who ask; the name is the same, so nothing is lost if it was ours.
            let Ok(asking) = self.candidate.ask().await else { continue };
            self.asking.task.abort();
            self.asking = asking;
        }
    }

    /// Waits until the lease is not ours any more.
    pub async fn lost(&mut self) {
        // A closed channel means that nobody renews the lease: it is as good as lost.
        let _ = self.asking.state.wait_for(|is_leader| !*is_leader).await;
    }

    /// Gives the lease back, so that another replica need not wait for its end.
    pub async fn release(self) {
        let Asking { state, task } = self.asking;
        drop(state);
        match task.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the lease was not given back"),
            Err(error) => tracing::warn!(%error, "the lease task ended badly"),
        }
    }
}
