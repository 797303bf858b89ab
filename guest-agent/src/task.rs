//! Tasks that end with their owner: nothing of an agent runs on when the agent is dropped.

use tokio::task::JoinHandle;

/// A running task; dropping it ends it.
#[derive(Debug)]
pub struct Task(JoinHandle<()>);

impl Task {
    /// Starts one on the runtime of the caller.
    pub fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
