//! What Viceroy writes: the last lines, and the one that names its address.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::sync::mpsc;

/// Lines kept of a program that may run for days; with [`MAX_LINE_BYTES`] at most 8 MB.
const MAX_LINES: usize = 2000;
const MAX_LINE_BYTES: usize = 4096;
const LISTENING: &str = "Listening on http://";

/// The last lines of a child's output. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Log {
    lines: Arc<Mutex<VecDeque<String>>>,
}

/// Tells where Viceroy listens, once it says so.
pub(super) struct LogReader {
    addrs: mpsc::UnboundedReceiver<SocketAddr>,
}

impl Log {
    /// Takes over both outputs of `child`, which must be piped.
    ///
    /// Each is read by a thread of its own, which ends with the child: a full pipe would stop
    /// Viceroy, whatever the runtime of the caller is doing.
    pub(super) fn of(child: &mut Child) -> (Self, LogReader) {
        let log = Self::default();
        let (sender, addrs) = mpsc::unbounded_channel();
        let outputs: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|pipe| Box::new(pipe) as _),
            child.stderr.take().map(|pipe| Box::new(pipe) as _),
        ];
        for output in outputs.into_iter().flatten() {
            let log = log.clone();
            let sender = sender.clone();
            thread::spawn(move || log.read_all(output, &sender));
        }
        (log, LogReader { addrs })
    }

    fn read_all(&self, output: impl Read, addrs: &mpsc::UnboundedSender<SocketAddr>) {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            line.truncate(MAX_LINE_BYTES);
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if let Some(addr) = listening_addr(&text) {
                // Nobody may be waiting any more.
                let _ = addrs.send(addr);
            }
            self.push(text);
            line.clear();
        }
    }

    fn push(&self, line: String) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == MAX_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// All lines kept, oldest first.
    pub(super) fn text(&self) -> String {
        self.last_lines(MAX_LINES)
    }

    /// At most `count` lines, the newest last.
    pub(super) fn last_lines(&self, count: usize) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let older = lines.len().saturating_sub(count);
        let lines: Vec<&str> = lines.iter().skip(older).map(String::as_str).collect();
        lines.join("\n")
    }
}

impl LogReader {
    /// Waits for the address; none if the child ended without naming one.
    pub(super) async fn listening_addr(mut self) -> Option<SocketAddr> {
        self.addrs.recv().await
    }
}

fn listening_addr(line: &str) -> Option<SocketAddr> {
    let (_, addr) = line.split_once(LISTENING)?;
    addr.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &[u8]) -> (Log, Vec<SocketAddr>) {
        let log = Log::default();
        let (sender, mut addrs) = mpsc::unbounded_channel();
        log.read_all(output, &sender);
        let mut found = Vec::new();
        while let Ok(addr) = addrs.try_recv() {
            found.push(addr);
        }
        (log, found)
    }

    #[test]
    fn the_address_is_in_the_line_that_says_listening() {
        let line = b"2026-01-01T00:00:00.021657Z  INFO Listening on http://127.0.0.1:34991\nmore\n";
        let (log, addrs) = read(line);
        assert_eq!(addrs, [SocketAddr::from(([127, 0, 0, 1], 34991))]);
        assert!(log.text().ends_with("34991\nmore"));
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let numbers: Vec<String> = (0..MAX_LINES + 5).map(|n| n.to_string()).collect();
        let output = numbers.join("\n");
        let (log, _) = read(output.as_bytes());
        assert!(log.text().starts_with("5\n6\n"));
        assert_eq!(log.last_lines(2), "2003\n2004");
    }

    #[test]
    fn long_lines_are_cut() {
        let (log, _) = read(&vec![b'x'; MAX_LINE_BYTES + 1]);
        assert_eq!(log.text().len(), MAX_LINE_BYTES);
    }
}
