//! What a cloud of real processes cannot be told to do wrong, it says, and why.

use misbehaviour::World;

use crate::cells::impossible_in;
use crate::support::{Bed, User};

#[tokio::test]
async fn every_rule_that_could_do_nothing_is_refused_with_the_reason() {
    let cloud = Bed::of(User::Own).up(&["--vms", "1"]).await;
    let control = cloud.started.control();
    for (rule, begins) in impossible_in(World::Netns) {
        let refused = control.post("/v1/rules", &rule).await;

        let refused = refused.expect_err(&begins).cause.to_string();
        assert!(refused.contains(&begins), "{begins}: {refused}");
    }
}
