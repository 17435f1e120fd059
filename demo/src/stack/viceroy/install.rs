//! Finds the right Viceroy, or has cargo build it.

use std::fs::{File, TryLockError};
use std::io::Write as _;
use std::mem;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio::time::sleep;

use crate::stack::module::cargo;
use crate::stack::{job, repository};

/// The Viceroy that the edge is tested with.
pub const VERSION: &str = "0.22.0";
/// Names a Viceroy to use instead of searching for one.
const VARIABLE: &str = "GRIPLINE_VICEROY";

/// The path of Viceroy [`VERSION`]; installs it with cargo if it is nowhere.
///
/// Looks at `GRIPLINE_VICEROY`, then along `PATH`, then in cargo's directory. An installation takes
/// minutes; it is announced, and cargo's progress goes to standard error. Many tasks and many
/// processes may call this at once, one of them installs.
///
/// Cancel safety: a dropped future ends the installation.
pub async fn locate_or_install() -> anyhow::Result<PathBuf> {
    static LOCATED: OnceCell<PathBuf> = OnceCell::const_new();
    LOCATED.get_or_try_init(locate_once).await.cloned()
}

async fn locate_once() -> anyhow::Result<PathBuf> {
    if let Some(named) = std::env::var_os(VARIABLE) {
        return check_named(PathBuf::from(named)).await;
    }
    let cargo_home = cargo_home()?;
    if let Some(found) = locate(&cargo_home).await {
        return Ok(found);
    }
    let _lock = InstallLock::acquire(&cargo_home).await?;
    // Whoever had the lock before may have installed it.
    if let Some(found) = locate(&cargo_home).await {
        return Ok(found);
    }
    install(&cargo_home).await?;
    let found = locate(&cargo_home).await;
    found.with_context(|| format!("cargo installed Viceroy {VERSION}, but it does not run"))
}

/// A Viceroy that the user named is used or refused, never replaced.
async fn check_named(program: PathBuf) -> anyhow::Result<PathBuf> {
    match version(&program).await {
        Some(found) if found == VERSION => Ok(program),
        Some(found) => bail!(
            "{VARIABLE} names Viceroy {found}, the edge needs {VERSION}: {}",
            program.display()
        ),
        None => bail!("{VARIABLE} names no Viceroy: {}", program.display()),
    }
}

async fn locate(cargo_home: &Path) -> Option<PathBuf> {
    for program in candidates(cargo_home) {
        if version(&program).await.is_some_and(|v| v == VERSION) {
            return Some(program);
        }
    }
    None
}

fn candidates(cargo_home: &Path) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([cargo_home.join("bin"), own_root(cargo_home).join("bin")])
        .map(|directory| directory.join("viceroy"))
        .filter(|program| program.is_file())
        .collect()
}

/// The version that a program says it has; none if it is no Viceroy.
async fn version(program: &Path) -> Option<String> {
    let mut command = Command::new(program);
    command.arg("--version").stderr(Stdio::null());
    let (_, output) = job::capture(&mut command).await.ok()?;
    let version = output.trim().strip_prefix("viceroy ")?;
    Some(version.to_owned())
}

async fn install(cargo_home: &Path) -> anyhow::Result<()> {
    // A Viceroy of another version may be needed for something else; it is left alone.
    let is_other_there = cargo_home.join("bin").join("viceroy").exists();
    let root = if is_other_there {
        own_root(cargo_home)
    } else {
        cargo_home.to_owned()
    };
    say(&format!(
        "Viceroy {VERSION} is missing: cargo builds it and installs it to {}, once; this takes some \
         minutes",
        root.display()
    ));
    let mut command = Command::new(cargo());
    command
        // The pinned toolchain builds it.
        .current_dir(repository())
        .args(["install", "viceroy", "--version", VERSION, "--locked"])
        .arg("--root")
        .arg(&root)
        // Its hundreds of crates do not belong in this workspace's target directory.
        .env_remove("CARGO_TARGET_DIR");
    let status = job::run(&mut command).await?;
    if !status.success() {
        bail!("cargo could not install Viceroy {VERSION} ({status}), see its messages above");
    }
    Ok(())
}

/// Tells the person who waits for minutes what for. Not logged, because tests have no subscriber.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn cargo_home() -> anyhow::Result<PathBuf> {
    let set = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    set.or_else(|| Some(std::env::home_dir()?.join(".cargo")))
        .context("neither CARGO_HOME nor a home directory is set, so Viceroy cannot be found")
}

/// Where our Viceroy goes if another one is in cargo's directory.
fn own_root(cargo_home: &Path) -> PathBuf {
    cargo_home.join("gripline")
}

/// Held while installing; the operating system lets go of it when the process ends.
struct InstallLock {
    _file: File,
}

impl InstallLock {
    /// Between two tries; an installation takes minutes.
    const PAUSE: Duration = Duration::from_millis(200);

    /// Waits for whoever is installing. Asks again and again instead of blocking a thread, so that
    /// the wait can be cancelled.
    async fn acquire(cargo_home: &Path) -> anyhow::Result<Self> {
        let path = cargo_home.join(".gripline-viceroy.lock");
        let context = || format!("cannot lock {}", path.display());
        let file = File::create(&path).with_context(context)?;
        let mut has_said_so = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) => {
                    if !mem::replace(&mut has_said_so, true) {
                        say("another process is installing Viceroy: waiting for it");
                    }
                    sleep(Self::PAUSE).await;
                }
                Err(TryLockError::Error(error)) => return Err(error).with_context(context),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that says this.
    fn program(directory: &Path, says: &str) -> PathBuf {
        // Written by a shell: a file that this process had open for writing could not be run while
        // another test starts a process.
        let script = format!("printf '#!/bin/sh\necho {says}\n' > viceroy && chmod +x viceroy");
        let mut shell = std::process::Command::new("sh");
        let status = shell.args(["-c", &script]).current_dir(directory).status();
        assert!(status.unwrap().success());
        directory.join("viceroy")
    }

    #[tokio::test]
    async fn a_named_viceroy_of_another_version_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let other = program(directory.path(), "viceroy 0.1.0");
        let error = check_named(other).await.unwrap_err().to_string();
        assert!(error.contains("names Viceroy 0.1.0"), "{error}");
        let not = program(directory.path(), "hello");
        let error = check_named(not).await.unwrap_err().to_string();
        assert!(error.contains("names no Viceroy"), "{error}");
        let missing = directory.path().join("missing");
        assert!(check_named(missing).await.is_err());
    }

    #[tokio::test]
    async fn the_right_viceroy_is_found_beside_another_one() {
        let home = tempfile::tempdir().unwrap();
        let bin = home.path().join("bin");
        let own = own_root(home.path()).join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::create_dir_all(&own).unwrap();
        program(&bin, "viceroy 0.1.0");
        let right = program(&own, &format!("viceroy {VERSION}"));
        assert_eq!(version(&right).await.as_deref(), Some(VERSION));
        assert!(candidates(home.path()).contains(&right));
        assert!(locate(home.path()).await.is_some());
    }
}
