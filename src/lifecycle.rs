//! Tasks and their end. A critical task that ends by itself ends the process with failure: a gateway that only looks
//! alive is worse than one that is restarted.

use std::future::Future;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// How far the stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Running,
    /// No longer ready; requests in flight are answered, new connections refused.
    Draining,
    /// Background work ends.
    Stopped,
}

#[derive(Clone)]
pub struct Lifecycle {
    phase: Arc<watch::Sender<Phase>>,
    failed: mpsc::UnboundedSender<String>,
}

/// Says which critical task ended.
pub type Failures = mpsc::UnboundedReceiver<String>;

impl Lifecycle {
    pub fn new() -> (Self, Failures) {
        let (failed, failures) = mpsc::unbounded_channel();
        (Self { phase: Arc::new(watch::Sender::new(Phase::Running)), failed }, failures)
    }

    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Moves on; never back.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let later = *now < phase;
            *now = (*now).max(phase);
            later
        });
    }

    /// Completes once the phase is reached.
    pub async fn reached(&self, phase: Phase) {
        let mut watch = self.phase.subscribe();
        let _ = watch.wait_for(|now| *now >= phase).await;
    }

    /// Runs a task whose end, before the stop, is the process' end. The task is dropped at the stop.
    pub fn critical(&self, name: impl Into<String>, task: impl Future<Output = ()> + Send + 'static) {
        let (name, this) = (name.into(), self.clone());
        let work = tokio::spawn(async move {
            let stop = this.clone();
            tokio::select! {
                biased;
                () = stop.reached(Phase::Stopped) => false,
                () = task => this.phase() < Phase::Stopped,
            }
        });
        let failed = self.failed.clone();
        tokio::spawn(async move {
            match work.await {
                Ok(false) => {}
                Ok(true) => drop(failed.send(format!("the task {name} ended"))),
                Err(error) if error.is_panic() => drop(failed.send(format!("the task {name} panicked"))),
                Err(_) => {}
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_critical_task_that_ends_or_panics_is_told_and_one_that_is_stopped_is_not() {
        let (lifecycle, mut failures) = Lifecycle::new();
        lifecycle.critical("ends", async {});
        assert_eq!(failures.recv().await.as_deref(), Some("the task ends ended"));
        lifecycle.critical("breaks", async { panic!("as it is meant to") });
        assert_eq!(failures.recv().await.as_deref(), Some("the task breaks panicked"));
        lifecycle.critical("lives", std::future::pending());
        lifecycle.enter(Phase::Draining);
        lifecycle.enter(Phase::Running);
        assert_eq!(lifecycle.phase(), Phase::Draining, "never back");
        lifecycle.enter(Phase::Stopped);
        drop(lifecycle);
        assert_eq!(failures.recv().await, None);
    }
}
