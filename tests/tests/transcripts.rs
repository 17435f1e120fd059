//! Dialogues, byte for byte; the data is in `tests/transcripts`, its form in `e2e::transcript`.

use std::path::{Path, PathBuf};

use e2e::transcript::play;
use futures::stream::{self, StreamExt as _};

/// Hubs that run at the same time.
const AT_ONCE: usize = 24;

/// Plays all transcripts of a folder.
async fn check(folder: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("transcripts")
        .join(folder);
    let entries = std::fs::read_dir(&folder).expect("the folder is there");
    let files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("it can be listed").path())
        // Other files are parts of these.
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    assert!(!files.is_empty(), "no transcripts in {}", folder.display());
    // Some of them wait for what takes its time.
    let played = stream::iter(files).map(|file| async move { play(&file).await });
    let played = played.buffer_unordered(AT_ONCE);
    let mut problems: Vec<String> = played
        .filter_map(async |played| played.err())
        .collect()
        .await;
    problems.sort();
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
