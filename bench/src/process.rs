//! A server's process: where it runs and what it takes.

use std::io;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// A process that was started here; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    /// Starts a program on these processors.
    pub(crate) fn start(command: &mut Command, cores: &[usize]) -> io::Result<Self> {
        // A process begins with the processors of the thread that starts it.
        let own = sched_getaffinity(None)?;
        pin(cores)?;
        let child = command.spawn();
        sched_setaffinity(None, &own)?;
        child.map(Self)
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

/// Has this thread, and what it starts, run on these processors only; on all that there are if
/// there are none of these.
pub(crate) fn pin(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    if cores.is_empty() {
        return Ok(());
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// Processor time of all threads of a process that still run, the kernel's for it included.
pub(crate) fn cpu_time(process: u32) -> Duration {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else {
        return Duration::ZERO;
    };
    let each = threads.flatten().map(|thread| thread_time(&thread.path()));
    each.sum()
}

/// The same of this thread alone.
pub(crate) fn own_cpu_time() -> Duration {
    thread_time(Path::new("/proc/thread-self"))
}

fn thread_time(thread: &Path) -> Duration {
    let statistics = std::fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
    let nanoseconds = statistics.split_whitespace().next();
    let nanoseconds = nanoseconds.and_then(|number| number.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

/// Bytes of user memory, shared pages by the share (PSS).
pub(crate) fn memory(process: u32) -> u64 {
    let map = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup"));
    let kilobytes = map.unwrap_or_default().lines().find_map(|line| {
        let rest = line.strip_prefix("Pss:")?;
        rest.split_whitespace().next()?.parse::<u64>().ok()
    });
    kilobytes.unwrap_or(0) * 1024
}
