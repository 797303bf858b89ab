//! Clients that do one thing after the other until nothing is left to be done.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::bench::milliseconds;

/// How hostd is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Within its process, past its API.
    Service,
    /// Over its HTTP API, a connection a request, as its client does.
    Api,
}

/// What came of one load.
#[derive(Debug, Clone, Default)]
pub struct Load {
    /// How long each thing took, in milliseconds.
    pub latencies: Vec<f64>,
    /// How long all took, in seconds.
    pub seconds: f64,
}

impl Load {
    /// Has `clients` do `count` things by number on the runtime that this is called on. Whoever is
    /// done takes the next, so that all are busy until the end.
    ///
    /// # Errors
    /// The first that any of them meets.
    pub async fn run<F>(
        clients: usize,
        count: usize,
        act: impl Fn(usize) -> F + Send + Sync + 'static,
    ) -> Result<Self>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let act = Arc::new(act);
        let next = Arc::new(AtomicUsize::new(0));
        let mut working = JoinSet::new();
        let began = Instant::now();
        for _ in 0..clients {
            working.spawn(work(Arc::clone(&next), count, Arc::clone(&act)));
        }
        let mut latencies = Vec::with_capacity(count);
        while let Some(done) = working.join_next().await {
            latencies.extend(done??);
        }
        let seconds = began.elapsed().as_secs_f64();
        Ok(Self { latencies, seconds })
    }

    /// How many things were done in a second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.seconds
    }
}

async fn work<F>(
    next: Arc<AtomicUsize>,
    count: usize,
    act: Arc<impl Fn(usize) -> F>,
) -> Result<Vec<f64>>
where
    F: Future<Output = Result<()>>,
{
    let mut latencies = Vec::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= count {
            return Ok(latencies);
        }
        let began = Instant::now();
        act(number).await?;
        latencies.push(milliseconds(began.elapsed()));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn everything_is_done_once_whoever_does_it() {
        let done = Arc::new(Mutex::new(BTreeSet::new()));
        let noted = Arc::clone(&done);

        let load = Load::run(3, 10, move |number| {
            assert!(noted.lock().unwrap().insert(number));
            async { Ok(()) }
        });

        assert_eq!(load.await.unwrap().latencies.len(), 10);
        assert_eq!(done.lock().unwrap().len(), 10);
    }

    #[tokio::test]
    async fn what_goes_wrong_is_told() {
        let load = Load::run(2, 4, |number| async move {
            anyhow::ensure!(number != 2, "two went wrong");
            Ok(())
        });

        assert_eq!(load.await.unwrap_err().to_string(), "two went wrong");
    }
}
