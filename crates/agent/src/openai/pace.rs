//! How fast requests go out: a bound on those in flight, and an even spacing when a rate is given.

use std::time::Duration;

use tokio::sync::{Mutex, Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// The pace of one client.
#[derive(Debug)]
pub(super) struct Pace {
    places: Semaphore,
    spacing: Option<Spacing>,
}

#[derive(Debug)]
struct Spacing {
    step: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    pub(super) fn new(in_flight_max: usize, requests_per_minute: Option<u32>) -> Self {
        let in_flight_max = in_flight_max.clamp(1, Semaphore::MAX_PERMITS);
        let spacing = requests_per_minute.map(|rate| Spacing {
            step: Duration::from_mins(1) / rate.max(1),
            next: Mutex::new(Instant::now()),
        });
        Self { places: Semaphore::new(in_flight_max), spacing }
    }

    /// Waits for a place; the request is in flight until it is dropped. `None` is a place too: the semaphore is never
    /// closed, so it does not occur.
    pub(super) async fn enter(&self) -> Option<SemaphorePermit<'_>> {
        let place = self.places.acquire().await.ok();
        if let Some(spacing) = &self.spacing {
            let slot = {
                let mut next = spacing.next.lock().await;
                let slot = (*next).max(Instant::now());
                *next = slot + spacing.step;
                slot
            };
            tokio::time::sleep_until(slot).await;
        }
        place
    }
}
