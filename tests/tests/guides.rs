//! Configuration in the guides is configuration that works.

use std::path::Path;

use e2e::origin::{Answer, Origin};
use e2e::{client, edge};
use gripline_hub::config::RawConfig;
use live_counter::stack::repository;

const GUIDES: [&str; 2] = ["docs/deploy.md", "docs/topologies.md"];

/// The pieces of this language in all guides.
fn pieces(language: &str) -> Vec<String> {
    let begin = format!("```{language}\n");
    let mut pieces = Vec::new();
    for guide in GUIDES {
        let text = std::fs::read_to_string(repository().join(guide)).expect("there is a guide");
        let after = text.split(&begin).skip(1);
        pieces.extend(after.filter_map(|rest| Some(rest.split_once("```")?.0.to_owned())));
    }
    assert!(!pieces.is_empty(), "nothing in {language}");
    pieces
}

#[track_caller]
fn check_hub(toml: &str, directory: &Path) {
    let raw = RawConfig::from_toml(toml).unwrap_or_else(|error| panic!("{error}\n{toml}"));
    if let Err(mistakes) = raw.check(directory) {
        panic!("{mistakes}\n{toml}");
    }
}

#[test]
fn the_hub_takes_the_guides_configurations() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("purge-token"), "token").expect("a file");
    for toml in pieces("toml") {
        check_hub(&toml, directory.path());
    }
}

#[tokio::test]
async fn the_edge_takes_the_guides_configurations() {
    let origin = Origin::start().await;
    origin.serve("/page", Answer::ok(&[], "page\n"));
    for json in pieces("json") {
        let changes: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
        let changes = changes.as_object().expect("it is an object").clone();
        let manifest = edge::manifest(&origin.url()).with_config(changes);
        let edge = edge::start(manifest.expect("it can be changed")).await;
        let response = client::get(edge.addr(), "/page", &[]).await;
        response.check(200, "page\n");
    }
}
