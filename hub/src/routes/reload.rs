//! Routes that change while the hub runs: a thread that watches the routes file.
//!
//! A file with mistakes changes nothing. The file is read again when something changes beside it
//! and its content is another one, and on SIGHUP whatever its content is.

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, oneshot, watch};

use super::{ReadError, Routes};
use crate::counters::Counters;

/// How long a change may take until it is complete, such as an editor's.
const SETTLE: Duration = Duration::from_millis(100);

/// The thread that watches. It ends, and is waited for, when this is dropped.
#[derive(Debug)]
pub(crate) struct Reloader {
    /// Nothing is ever sent: its end is the message.
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

/// Watches a routes file. `initial` is what it said before; `counters` must have no other writer.
///
/// # Errors
/// The system refuses a thread, a signal or a watch; nothing keeps running then.
pub(crate) fn spawn(
    path: PathBuf,
    initial: Arc<Routes>,
    counters: Arc<Counters>,
) -> io::Result<(watch::Receiver<Arc<Routes>>, Reloader)> {
    let (routes, receiver) = watch::channel(initial);
    let (stop, stopped) = oneshot::channel();
    let (ready, started) = std::sync::mpsc::channel();
    let source = Source {
        path,
        seen: None,
        routes,
        counters,
    };
    let thread = std::thread::Builder::new()
        .name("routes".to_owned())
        .spawn(move || {
            if let Err(error) = run(source, stopped, &ready) {
                // Nobody waits for it if it comes after the start.
                let _ = ready.send(Err(error));
            }
        })?;
    let reloader = Reloader {
        stop: Some(stop),
        thread: Some(thread),
    };
    started
        .recv()
        .unwrap_or_else(|error| Err(io::Error::other(error)))?;
    Ok((receiver, reloader))
}

impl Drop for Reloader {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that watches the routes file panicked");
        }
    }
}

fn run(
    mut source: Source,
    stopped: oneshot::Receiver<Infallible>,
    ready: &std::sync::mpsc::Sender<io::Result<()>>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let hangups = signal(SignalKind::hangup())?;
        let changes = Arc::new(Notify::new());
        let mut watcher = watcher(Arc::clone(&changes)).map_err(io::Error::other)?;
        arm(&mut watcher, &source.path).map_err(io::Error::other)?;
        // What changed before the watch began.
        source.reload(Cause::Start);
        // Who waits for it is there until it comes.
        let _ = ready.send(Ok(()));
        tokio::select! {
            _ = stopped => {}
            () = source.follow(hangups, &changes, watcher) => {}
        }
        Ok(())
    })
}

/// What leads to reading the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The watch begins.
    Start,
    /// Something changed beside it.
    Change,
    /// SIGHUP.
    Hangup,
}

/// The file, and those who want its routes.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    /// A hash of the content that was read last; `None` if it could not be read.
    seen: Option<u64>,
    routes: watch::Sender<Arc<Routes>>,
    counters: Arc<Counters>,
}

impl Source {
    /// Reads the file whenever there is cause. Never ends.
    ///
    /// Cancel safe.
    async fn follow(
        mut self,
        mut hangups: Signal,
        changes: &Notify,
        mut watcher: RecommendedWatcher,
    ) {
        loop {
            tokio::select! {
                Some(()) = hangups.recv() => self.reload(Cause::Hangup),
                () = settled(changes) => self.reload(Cause::Change),
            }
            // Directories may have been replaced, and links may lead elsewhere.
            if let Err(error) = arm(&mut watcher, &self.path) {
                tracing::warn!(%error, file = %self.path.display(), "the routes file is not watched");
            }
        }
    }

    fn reload(&mut self, cause: Cause) {
        let text = std::fs::read_to_string(&self.path);
        let found = text.as_ref().ok().map(|text| fingerprint(text));
        if cause == Cause::Change && found == self.seen {
            return;
        }
        self.seen = found;
        match Routes::from_read(text, &self.path) {
            Ok(routes) => self.replace(routes, cause),
            Err(error) => {
                self.counters.route_errors.increment();
                report(&error);
            }
        }
    }

    fn replace(&self, routes: Routes, cause: Cause) {
        let count = routes.all().len();
        self.routes.send_replace(Arc::new(routes));
        if cause != Cause::Start {
            self.counters.route_reloads.increment();
            tracing::info!(file = %self.path.display(), routes = count, "routes reloaded");
        }
    }
}

/// Logs what is wrong, each mistake with its place.
fn report(error: &ReadError) {
    if let ReadError::Mistakes { path, mistakes } = error {
        for mistake in mistakes {
            tracing::error!(
                file = %path.display(),
                line = mistake.line,
                column = mistake.column,
                "{}", mistake.problem
            );
        }
    }
    tracing::error!(%error, "the routes stay as they were");
}

/// Cancel safe in that whoever cancels it reads the file.
async fn settled(changes: &Notify) {
    changes.notified().await;
    tokio::time::sleep(SETTLE).await;
}

fn watcher(changes: Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    notify::recommended_watcher(move |event: notify::Result<Event>| {
        if event.as_ref().map_or(true, is_change) {
            changes.notify_one();
        }
    })
}

/// Reading a file is no change; otherwise each look at it would lead to the next.
fn is_change(event: &Event) -> bool {
    !matches!(event.kind, EventKind::Access(_))
}

/// Watches the file's directory, because editors put another file in its place; and that of the
/// file behind it if it is a link.
fn arm(watcher: &mut RecommendedWatcher, path: &Path) -> notify::Result<()> {
    let target = path.canonicalize().ok();
    for path in [Some(path), target.as_deref()].into_iter().flatten() {
        let directory = match path.parent() {
            Some(directory) if directory != Path::new("") => directory,
            _ => Path::new("."),
        };
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
    }
    Ok(())
}

fn fingerprint(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::{Lookup, Protocol, Security};
    use rustix::process::{Signal, getpid, kill_process};
    use tempfile::TempDir;
    use tokio::sync::{Semaphore, SemaphorePermit};

    /// Longer than any change takes to arrive.
    const LONG: Duration = Duration::from_secs(30);

    /// A signal reaches every watch of the process, so there is one at a time.
    static WATCH: Semaphore = Semaphore::const_new(1);

    async fn only_watch() -> SemaphorePermit<'static> {
        WATCH.acquire().await.unwrap()
    }

    /// A routes file in a directory of its own.
    struct File {
        directory: TempDir,
        path: PathBuf,
    }

    impl File {
        fn new(text: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("routes");
            std::fs::write(&path, text).unwrap();
            Self { directory, path }
        }

        fn write(&self, text: &str) {
            std::fs::write(&self.path, text).unwrap();
        }

        fn put_in_place(&self, text: &str) {
            let other = self.directory.path().join("routes~");
            std::fs::write(&other, text).unwrap();
            std::fs::rename(&other, &self.path).unwrap();
        }

        fn source(&self) -> (Source, watch::Receiver<Arc<Routes>>) {
            let (routes, receiver) = watch::channel(Arc::new(Routes::read(&self.path).unwrap()));
            let source = Source {
                path: self.path.clone(),
                seen: None,
                routes,
                counters: Arc::default(),
            };
            (source, receiver)
        }

        fn spawn(&self) -> (watch::Receiver<Arc<Routes>>, Reloader) {
            let initial = Arc::new(Routes::read(&self.path).unwrap());
            spawn(self.path.clone(), initial, Arc::default()).unwrap()
        }
    }

    /// The port of the only target of the route for any host.
    fn port(routes: &Routes) -> String {
        let lookup = Lookup {
            host: "a",
            path: "/",
            protocol: Protocol::Http,
            security: Security::Plain,
            id: None,
        };
        let route = routes.find(&lookup).expect("a route for any host");
        route.targets[0].to_string()
    }

    #[track_caller]
    fn check_counters(source: &Source, reloads: u64, errors: u64) {
        let text = Counters::render([&*source.counters].into_iter());
        for (name, count) in [("reloads", reloads), ("errors", errors)] {
            let line = format!("\ngripline_route_{name}_total {count}\n");
            assert!(text.contains(&line), "no {line}");
        }
    }

    async fn wait_for(receiver: &mut watch::Receiver<Arc<Routes>>, expected: &str) {
        let changed = receiver.wait_for(|routes| port(routes) == expected);
        let changed = tokio::time::timeout(LONG, changed).await;
        changed.expect("a change in time").expect("a watch");
    }

    #[test]
    fn mistakes_change_nothing() {
        let file = File::new("* a:1");
        let (mut source, receiver) = file.source();
        source.reload(Cause::Start);
        check_counters(&source, 0, 0);
        file.write("* a:2\nb");
        source.reload(Cause::Change);
        assert_eq!(port(&receiver.borrow()), "a:1");
        check_counters(&source, 0, 1);
        file.write("* a:2");
        source.reload(Cause::Change);
        assert_eq!(port(&receiver.borrow()), "a:2");
        check_counters(&source, 1, 1);
    }

    #[test]
    fn a_file_that_is_gone_changes_nothing_and_is_reported_once() {
        let file = File::new("* a:1");
        let (mut source, receiver) = file.source();
        source.reload(Cause::Start);
        std::fs::remove_file(&file.path).unwrap();
        source.reload(Cause::Change);
        source.reload(Cause::Change);
        assert_eq!(port(&receiver.borrow()), "a:1");
        check_counters(&source, 0, 1);
    }

    #[test]
    fn the_same_content_is_read_again_only_on_sighup() {
        let file = File::new("* a:1");
        let (mut source, mut receiver) = file.source();
        source.reload(Cause::Start);
        receiver.mark_unchanged();
        source.reload(Cause::Change);
        assert!(!receiver.has_changed().unwrap());
        source.reload(Cause::Hangup);
        assert!(receiver.has_changed().unwrap());
        check_counters(&source, 1, 0);
    }

    #[tokio::test]
    async fn changes_of_the_file_arrive() {
        let _only = only_watch().await;
        let file = File::new("* a:1");
        let (mut receiver, _reloader) = file.spawn();
        file.write("* a:2");
        wait_for(&mut receiver, "a:2").await;
        file.put_in_place("* a:3");
        wait_for(&mut receiver, "a:3").await;
        std::fs::remove_file(&file.path).unwrap();
        file.write("* a:4");
        wait_for(&mut receiver, "a:4").await;
    }

    #[tokio::test]
    async fn changes_behind_a_link_arrive() {
        let _only = only_watch().await;
        let (file, links) = (File::new("* a:1"), tempfile::tempdir().unwrap());
        let link = links.path().join("routes");
        std::os::unix::fs::symlink(&file.path, &link).unwrap();
        let initial = Arc::new(Routes::read(&link).unwrap());
        let (mut receiver, _reloader) = spawn(link, initial, Arc::default()).unwrap();
        file.write("* a:2");
        wait_for(&mut receiver, "a:2").await;
    }

    #[tokio::test]
    async fn what_changed_before_the_watch_is_seen() {
        let _only = only_watch().await;
        let file = File::new("* a:1");
        let initial = Arc::new(Routes::read(&file.path).unwrap());
        file.write("* a:2");
        let (receiver, _reloader) = spawn(file.path.clone(), initial, Arc::default()).unwrap();
        assert_eq!(port(&receiver.borrow()), "a:2");
    }

    #[tokio::test]
    async fn sighup_reads_the_file_again() {
        let _only = only_watch().await;
        let file = File::new("* a:1");
        let (mut receiver, _reloader) = file.spawn();
        receiver.mark_unchanged();
        kill_process(getpid(), Signal::HUP).unwrap();
        let changed = tokio::time::timeout(LONG, receiver.changed()).await;
        changed.expect("a change in time").expect("a watch");
    }

    #[tokio::test]
    async fn the_thread_ends_with_its_owner() {
        let _only = only_watch().await;
        let file = File::new("* a:1");
        let (mut receiver, reloader) = file.spawn();
        drop(reloader);
        receiver.mark_unchanged();
        assert!(receiver.changed().await.is_err());
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        let initial = Arc::new(Routes::from_text("* a:1", Path::new("")).unwrap());
        let path = PathBuf::from("/nowhere/routes");
        assert!(spawn(path, initial, Arc::default()).is_err());
    }
}
