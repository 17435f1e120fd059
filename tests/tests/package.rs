//! What is deployed runs where it is deployed to.
//!
//! The platform's own check of a package looks at the names in it only, so here the module is read
//! for what it wants of its host, and taken out of the package and run.

#![expect(clippy::print_stdout, reason = "size and start are worth a look in CI")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use e2e::origin::{Answer, Origin};
use e2e::{client, edge};
use live_counter::stack::repository;
use tokio::process::Command;
use wasmparser::{Parser, Payload};

/// Whether the platform has a module of this name for its guests.
fn is_offered(module: &str) -> bool {
    module.starts_with("fastly_") || module == "wasi_snapshot_preview1"
}

/// The names of the modules that a module imports from.
#[track_caller]
fn imports(wasm: &[u8]) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    for payload in Parser::new(0).parse_all(wasm) {
        if let Payload::ImportSection(imports) = payload.expect("it is WebAssembly") {
            for import in imports.into_imports() {
                names.insert(import.expect("it is an import").module);
            }
        }
    }
    names
}

#[track_caller]
fn check_imports(module: &Path) {
    let wasm = std::fs::read(module).expect("there is a module");
    let names = imports(&wasm);
    assert!(names.contains("fastly_http_req"), "{names:?}");
    let others: Vec<&&str> = names.iter().filter(|name| !is_offered(name)).collect();
    assert_eq!(others, [&""; 0], "of {names:?}");
}

#[tokio::test]
async fn the_module_asks_its_host_for_what_the_platform_offers() {
    check_imports(&edge::module().await);
}

/// Builds the package and takes the module out of it, into `directory`.
async fn unpack_into(directory: &Path) -> PathBuf {
    let package = repository().join("pkg/gripline-edge.tar.gz");
    run(Command::new(repository().join("edge/package"))).await;
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(package).arg("-C").arg(directory);
    run(tar).await;
    directory.join("gripline-edge/bin/main.wasm")
}

async fn run(mut command: Command) {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.expect("the program can be run");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

#[tokio::test]
#[ignore = "needs the platform's CLI, see .ci/run"]
async fn the_module_in_the_package_serves_instructions_from_its_cache() {
    let directory = tempfile::tempdir().expect("a directory");
    let module = unpack_into(directory.path()).await;
    check_imports(&module);

    let origin = Origin::start().await;
    let fields = [
        "Surrogate-Control: max-age=60",
        "Grip-Hold: stream",
        "Grip-Channel: updates",
    ];
    origin.serve("/stream", Answer::ok(&fields, "first\n"));
    let size = std::fs::metadata(&module).expect("there is one").len();
    let begin = Instant::now();
    let edge = edge::start_module(module, edge::manifest(&origin.url())).await;
    let start = begin.elapsed();
    println!("the module has {size} bytes and answers {start:?} after Viceroy was started");
    let health = client::get(edge.addr(), "/.gripline/health", &[]).await;
    health.check(200, "OK\n");
    for cache in ["miss", "hit"] {
        let response = client::get(edge.addr(), "/stream", &[&edge::signed()]).await;
        response.check(200, "first\n");
        assert_eq!(response.field("X-Cache"), Some(cache));
        assert_eq!(response.field("Grip-Channel"), Some("updates"));
    }
    assert_eq!(origin.count("/stream"), 1);
}
