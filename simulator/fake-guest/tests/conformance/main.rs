//! One table of operations against the running kernel and against the model: the same errno, the
//! same state after each. Needs root.
//!
//! ```text
//!   three namespaces a, b, c with a pair of links in a and one named `taken` in b
//!   step ──► kernel ──► errno, links with addresses and routes ─┐
//!        └─► model ───► errno, links with addresses and routes ─┴─ equal?
//! ```
//!
//! What the kernel does of itself with IPv6 link-local addresses and their routes is left out: the
//! agent never sees it. Numbers of links are compared too.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod model;
mod real;
mod step;
mod tables;

use model::Model;
use real::Real;
use step::{Step, System};

/// Runs a table on both and compares after every step.
async fn compare(name: &str, steps: &[Step]) {
    let mut real = Real::start().await;
    let mut model = Model::start();
    assert_eq!(real.state().await, model.state().await, "{name}: before");
    for (number, step) in steps.iter().enumerate() {
        let expected = real.act(step).await;
        let found = model.act(step).await;
        assert_eq!(
            found, expected,
            "{name}: verdict on step {number}, {step:?}"
        );
        let (expected, found) = (real.state().await, model.state().await);
        assert_eq!(found, expected, "{name}: after step {number}, {step:?}");
    }
}

#[tokio::test]
async fn the_model_answers_as_the_running_kernel_does() {
    for (name, steps) in tables::all() {
        compare(name, &steps).await;
    }
}
