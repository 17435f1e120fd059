//! Dialogues, byte for byte; the data is in `tests/transcripts`, its form in `e2e::transcript`.

use std::path::{Path, PathBuf};

use e2e::transcript::play;

/// Plays all transcripts of a folder.
async fn check(folder: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("transcripts")
        .join(folder);
    let entries = std::fs::read_dir(&folder).expect("the folder is there");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("it can be listed").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no transcripts in {}", folder.display());
    let mut problems = Vec::new();
    for file in files {
        if let Err(problem) = play(&file).await {
            problems.push(problem);
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[tokio::test]
async fn instructions() {
    check("instructions").await;
}

#[tokio::test]
async fn response_holds() {
    check("response_holds").await;
}

#[tokio::test]
async fn stream_holds() {
    check("stream_holds").await;
}

#[tokio::test]
async fn links() {
    check("links").await;
}

#[tokio::test]
async fn filters() {
    check("filters").await;
}

#[tokio::test]
async fn publishing() {
    check("publishing").await;
}

#[tokio::test]
async fn proxying() {
    check("proxying").await;
}

#[tokio::test]
async fn websockets() {
    check("websockets").await;
}
