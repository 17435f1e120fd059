//! The command from outside: it starts everything, stops everything, and says what is wrong.
//!
//! Builds the edge module and installs Viceroy if they are missing, like the command itself.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

const ANY_PORTS: [&str; 8] = [
    "--hub-port",
    "0",
    "--control-port",
    "0",
    "--edge-port",
    "0",
    "--origin-port",
    "0",
];

/// The command, running. Killed if a test fails before it ends.
struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
    hub: String,
    control: String,
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_live-counter"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Running {
    /// Starts the command with free ports; returns when it says that everything runs.
    fn start(data: &Path) -> Self {
        let mut command = command(&ANY_PORTS);
        // Piped, cargo's messages would have to be read while waiting for standard output.
        command.arg("--data").arg(data).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut running = Self {
            child,
            stdout,
            hub: String::new(),
            control: String::new(),
        };
        loop {
            let line = running.next_line();
            if let Some((hub, control)) = line.split_once(", publishers ") {
                hub.trim().clone_into(&mut running.hub);
                control.clone_into(&mut running.control);
            }
            if line == "Ctrl-C stops everything." {
                return running;
            }
        }
    }

    fn next_line(&mut self) -> String {
        let mut line = String::new();
        let length = self.stdout.read_line(&mut line).unwrap();
        assert_ne!(length, 0, "the command ended: {:?}", self.child.wait());
        line.trim_end().to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill(self.child.id(), signal);
    }

    /// The exit code, when the command has ended.
    fn wait(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.signal(Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

fn kill(process: u32, signal: Signal) {
    let pid = Pid::from_raw(process.cast_signed()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// The processes that `parent` started and that still exist; proc(5).
fn children_of(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // The name before it may contain anything, parentheses too.
            let fields = stat
                .rsplit_once(") ")
                .map_or("", |(_, fields)| fields)
                .split(' ');
            fields.into_iter().nth(1) == Some(&parent.to_string())
        })
        .collect()
}

fn exists(process: u32) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

/// The answer's status line and body; `url` has no path.
fn request(url: &str, method: &str, path: &str, body: &str) -> String {
    let authority = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(authority).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Starts everything, uses it, ends it with `signal`.
fn check_life(signal: Signal) {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(&directory.path().join("counters.redb"));
    let incremented = request(&running.hub, "POST", "/counters/clicks", "");
    assert!(
        incremented.contains(r#"{"name":"clicks","value":1,"published":true}"#),
        "{incremented}"
    );
    let page = request(&running.hub, "GET", "/", "");
    assert!(page.contains(&running.control), "{page}");
    let note = r#"{"items":[{"channel":"counter-clicks","http-stream":{"content":"x"}}]}"#;
    let published = request(&running.control, "POST", "/publish/", note);
    assert!(published.starts_with("HTTP/1.1 200"), "{published}");

    let children = children_of(running.child.id());
    assert_eq!(children.len(), 1, "Viceroy alone");
    running.signal(signal);
    assert_eq!(running.wait(), Some(0));
    assert!(!exists(children[0]), "Viceroy is gone");
}

#[test]
fn ctrl_c_stops_everything() {
    check_life(Signal::INT);
}

#[test]
fn sigterm_stops_everything() {
    check_life(Signal::TERM);
}

#[test]
fn a_closed_terminal_stops_everything() {
    check_life(Signal::HUP);
}

#[test]
fn counters_survive_a_restart_of_everything() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("counters.redb");
    for value in 1..=2 {
        let running = Running::start(&data);
        let answer = request(&running.hub, "POST", "/counters/clicks", "");
        assert!(answer.contains(&format!(r#""value":{value},"#)), "{answer}");
        running.signal(Signal::INT);
        assert_eq!(running.wait(), Some(0));
    }
}

#[test]
fn a_part_that_dies_stops_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(&directory.path().join("counters.redb"));
    let viceroy = children_of(running.child.id())[0];
    kill(viceroy, Signal::KILL);
    assert_eq!(running.wait(), Some(1));
}

#[test]
fn a_taken_port_is_named_with_its_owner_before_anything_starts() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let mut arguments = ANY_PORTS;
    arguments[5] = &port;
    let output = command(&arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    let expected = format!("live-counter: port {port} for the edge is taken by ");
    assert!(error.starts_with(&expected), "{error}");
    let pid = std::process::id();
    assert!(error.contains(&format!("(process {pid})")), "{error}");
    assert!(error.contains("--edge-port"), "{error}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "");
}

#[test]
fn bad_arguments_are_refused_with_a_hint() {
    let output = command(&["--hub-port", "70000"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let output = command(&["--log-level", "no=such=filter"])
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("--log-level no=such=filter"), "{error}");
}
