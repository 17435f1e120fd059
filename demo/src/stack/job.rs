//! Runs tools such as cargo to their end, and ends them when nobody waits any more.

use std::process::{ExitStatus, Stdio};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

/// A tool in a process group of its own.
///
/// Cargo starts compilers, which go on when cargo alone is killed; so the whole group is ended.
struct Job {
    child: Child,
}

/// Runs `command` to its end; its messages go to this program's standard error.
///
/// Cancel safety: a dropped future ends the tool and everything that it started.
pub(super) async fn run(command: &mut Command) -> anyhow::Result<ExitStatus> {
    let (status, _) = run_to_end(command.stdout(Stdio::null())).await?;
    Ok(status)
}

/// Like [`run`], but returns what the tool wrote to its standard output.
pub(super) async fn capture(command: &mut Command) -> anyhow::Result<(ExitStatus, String)> {
    run_to_end(command.stdout(Stdio::piped())).await
}

async fn run_to_end(command: &mut Command) -> anyhow::Result<(ExitStatus, String)> {
    let program = command.as_std().get_program().to_owned();
    let context = || format!("cannot run {}", program.display());
    command.stdin(Stdio::null()).process_group(0);
    let child = command.spawn().with_context(context)?;
    let mut job = Job { child };
    let mut output = Vec::new();
    if let Some(mut stdout) = job.child.stdout.take() {
        stdout
            .read_to_end(&mut output)
            .await
            .with_context(context)?;
    }
    let status = job.child.wait().await.with_context(context)?;
    Ok((status, String::from_utf8_lossy(&output).into_owned()))
}

impl Drop for Job {
    fn drop(&mut self) {
        // `id` is none once the child was waited for, so this cannot hit a reused number.
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = id.and_then(Pid::from_raw) {
            // The group may be gone already; then there is nothing to end.
            let _ = kill_process_group(group, Signal::KILL);
            // Tokio reaps the child in the background.
        }
    }
}
