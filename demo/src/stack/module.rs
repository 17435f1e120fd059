//! Builds the edge's wasm module.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use tokio::process::Command;
use tokio::sync::OnceCell;

use super::{job, repository};

const TARGET: &str = "wasm32-wasip1";
const PACKAGE: &str = "gripline-edge";

/// Builds the edge module in release mode and returns its path.
///
/// Adds the wasm target to the toolchain if rustup can; cargo's progress goes to standard error.
/// Many tasks and many processes may call this at once: the build happens once per process, and
/// cargo's own lock puts processes in a row. `cargo run` and `cargo test` hold that lock only while
/// they compile, so a program that they started can call this.
///
/// Cancel safety: a dropped future ends cargo and its compilers.
pub async fn build() -> anyhow::Result<PathBuf> {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    BUILT.get_or_try_init(build_once).await.cloned()
}

async fn build_once() -> anyhow::Result<PathBuf> {
    ensure_target().await?;
    let mut command = Command::new(cargo());
    command
        .current_dir(repository())
        .args(["build", "--package", PACKAGE, "--release"])
        .args(["--target", TARGET])
        // Says where the module is, whatever target directory is configured.
        .arg("--message-format=json-render-diagnostics");
    let (status, messages) = job::capture(&mut command).await?;
    if !status.success() {
        bail!("cargo could not build {PACKAGE} for {TARGET} ({status}), see its messages above");
    }
    messages
        .lines()
        .rev()
        .find_map(wasm_artifact)
        .with_context(|| format!("cargo built {PACKAGE} but named no module"))
}

/// The cargo that runs this program, or the one on the path.
pub(super) fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

#[derive(Deserialize)]
struct Message<'a> {
    reason: &'a str,
    executable: Option<PathBuf>,
}

/// The module that a line of cargo's output announces.
fn wasm_artifact(line: &str) -> Option<PathBuf> {
    let message: Message<'_> = serde_json::from_str(line).ok()?;
    let path = (message.reason == "compiler-artifact").then_some(message.executable)??;
    path.extension()
        .is_some_and(|extension| extension == "wasm")
        .then_some(path)
}

/// Sees to it that the toolchain can compile for [`TARGET`].
async fn ensure_target() -> anyhow::Result<()> {
    if is_target_installed().await? {
        return Ok(());
    }
    if !is_rustup_there().await {
        bail!(
            "the Rust toolchain has no standard library for {TARGET} and rustup is not there to add \
             it; install that target with the package manager that installed Rust"
        );
    }
    let mut command = Command::new("rustup");
    command
        .current_dir(repository())
        .args(["target", "add", TARGET]);
    let status = job::run(&mut command).await?;
    if !status.success() {
        bail!("`rustup target add {TARGET}` failed ({status}), see its messages above");
    }
    Ok(())
}

async fn is_target_installed() -> anyhow::Result<bool> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command
        .current_dir(repository())
        .args(["--print", "target-libdir", "--target", TARGET]);
    let (status, output) = job::capture(&mut command).await?;
    Ok(status.success() && Path::new(output.trim()).is_dir())
}

async fn is_rustup_there() -> bool {
    let mut command = Command::new("rustup");
    command.arg("--version").stderr(Stdio::null());
    job::run(&mut command)
        .await
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_is_found_among_cargos_messages() {
        let line = |reason: &str, executable: &str| {
            format!(r#"{{"reason":"{reason}","package_id":"x","executable":{executable}}}"#)
        };
        let module = line("compiler-artifact", r#""/t/gripline-edge.wasm""#);
        let expected = Some(PathBuf::from("/t/gripline-edge.wasm"));
        assert_eq!(wasm_artifact(&module), expected);
        assert_eq!(wasm_artifact(&line("compiler-artifact", "null")), None);
        assert_eq!(wasm_artifact(&line("compiler-artifact", r#""/t/x""#)), None);
        assert_eq!(wasm_artifact(r#"{"reason":"build-finished"}"#), None);
        assert_eq!(wasm_artifact("not json"), None);
    }
}
