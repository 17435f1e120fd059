//! A server's process: where it runs and what it takes.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::ensure;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getrlimit, kill_process, set_parent_process_death_signal,
    setrlimit,
};
use rustix::thread::{CpuSet, sched_setaffinity};

/// A process that was started here; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Process(Child);

/// A program that runs on these processors only and, whatever ends this one, ends with the thread
/// that starts it. Its arguments are still to be added.
pub(crate) fn program(program: impl Into<OsString>, cores: &[usize]) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("run");
    for core in cores {
        command.args(["--core", &core.to_string()]);
    }
    command.arg("--").arg(program.into());
    Ok(command)
}

/// Becomes a [`program`]. Says why if it can't.
pub(crate) fn become_program(
    program: &OsString,
    arguments: &[OsString],
    cores: &[usize],
) -> io::Result<Infallible> {
    pin(cores)?;
    set_parent_process_death_signal(Some(Signal::TERM))?;
    Err(Command::new(program).args(arguments).exec())
}

/// Takes as many descriptors as there may be, and sees that they are enough.
pub(crate) fn raise_descriptors() -> anyhow::Result<()> {
    /// 19,000 clients, and what there is beside them.
    const NEEDED: u64 = 20_000;
    let maximum = getrlimit(Resource::Nofile).maximum;
    let most = maximum.unwrap_or(u64::MAX);
    ensure!(
        most >= NEEDED,
        "{NEEDED} open files are needed and {most} are allowed: see ulimit -Hn"
    );
    let current = maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current, maximum })?)
}

/// Descriptors that this process, or one that it starts, may have.
pub(crate) fn descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    })
}

impl Process {
    /// Starts a [`program`].
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        command.spawn().map(Self)
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// The process and all that it has started, directly or not.
    pub(crate) fn family(&self) -> Vec<u32> {
        let parents: Vec<(u32, u32)> = parents().collect();
        let mut family = vec![self.0.id()];
        let mut known = 0;
        while known < family.len() {
            let parent = family[known];
            let children = parents.iter().filter(|(_, of)| *of == parent);
            family.extend(children.map(|(child, _)| *child));
            known += 1;
        }
        family
    }
}

impl Drop for Process {
    /// Ends it as a user would, so that it ends what it has started.
    fn drop(&mut self) {
        const PATIENCE: u32 = 500;
        if let Some(id) = Pid::from_raw(self.0.id().cast_signed()) {
            let _ = kill_process(id, Signal::TERM);
        }
        for _ in 0..PATIENCE {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// All processes with their parents.
fn parents() -> impl Iterator<Item = (u32, u32)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // Behind the name, which may hold anything but this.
        let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?;
        Some((id, parent.parse().ok()?))
    })
}

/// Has this thread, and what it starts, run on these processors only.
pub(crate) fn pin(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// Processor time of all threads of a process that still run, the kernel's for it included.
pub(crate) fn cpu_time(process: u32) -> io::Result<Duration> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task"))?;
    let mut sum = Duration::ZERO;
    for thread in threads {
        let thread = thread?.path();
        match thread_time(&thread) {
            // It has ended meanwhile.
            Err(_) if !thread.exists() => {}
            time => sum += time?,
        }
    }
    Ok(sum)
}

/// The same of this thread alone.
pub(crate) fn own_cpu_time() -> io::Result<Duration> {
    thread_time(Path::new("/proc/thread-self"))
}

fn thread_time(thread: &Path) -> io::Result<Duration> {
    let statistics = std::fs::read_to_string(thread.join("schedstat"))?;
    let nanoseconds = statistics.split_whitespace().next();
    let nanoseconds = nanoseconds.and_then(|number| number.parse().ok());
    let nanoseconds = nanoseconds.ok_or_else(|| unreadable("schedstat", &statistics))?;
    Ok(Duration::from_nanos(nanoseconds))
}

/// Bytes of user memory, shared pages by the share (PSS).
pub(crate) fn memory(process: u32) -> io::Result<u64> {
    let map = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
    let kilobytes = map.lines().find_map(|line| {
        let rest = line.strip_prefix("Pss:")?;
        rest.split_whitespace().next()?.parse::<u64>().ok()
    });
    let kilobytes = kilobytes.ok_or_else(|| unreadable("smaps_rollup", &map))?;
    Ok(kilobytes * 1024)
}

fn unreadable(file: &str, content: &str) -> io::Error {
    io::Error::other(format!("{file} has no figure: {content:?}"))
}
