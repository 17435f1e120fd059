//! Live Counter in a real browser, through the whole stack.
//!
//! `.ci/run` installs Chromium and `playwright-core` and runs this test. With `GRIPLINE_SCREENSHOT`
//! it leaves a picture there.

#![expect(clippy::unwrap_used, reason = "a test that cannot run fails")]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use e2e::chain::first_source;
use live_counter::demo::{Demo, Options};
use live_counter::stack::topology::Topology;
use tokio::process::Command;

/// Starting a browser takes longer than anything else here.
const PATIENCE: Duration = Duration::from_mins(2);

#[tokio::test]
#[ignore = "needs Chromium, see .ci/run"]
async fn pages_change_together_and_late_ones_begin_with_the_current_value() {
    for topology in Topology::ALL {
        watch_pages(topology).await;
    }
}

async fn watch_pages(topology: Topology) {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("counters.redb");
    let options = Options::on_free_ports(topology, file);
    let demo = Demo::start(&options, &mut ()).await.unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("node/live_counter.mjs");
    let output = Command::new("node")
        .arg(script)
        .arg(format!("http://{}/", demo.front_addr()))
        .arg(first_source(topology))
        .args(std::env::var_os("GRIPLINE_SCREENSHOT"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, output)
        .await
        .expect("the browser is done in time")
        .unwrap();
    assert!(output.status.success(), "{output:?}\n{}", demo.log());
    demo.stop().await.unwrap();
}
