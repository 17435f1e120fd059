//! Origins that are programs of their own, written with the original GRIP libraries.
//!
//! They are the scripts in `python/` and `node/`. Each takes a free port and prints it, reads one
//! line, the hub's `GRIP_URL`, and serves until its standard input ends. What goes wrong in it is
//! on its standard error, which is the test's.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use gripline_hub::config::{RawConfig, RawControlAuth, RawPurge};
use live_counter::stack::viceroy::Viceroy;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use crate::client::{self, Client};
use crate::hub::{self, Hub, SIG_ISS};
use crate::{edge, within};

/// Signs the hub's requests; of the length that the libraries want.
const VERIFY_KEY: &str = "what-the-hub-signs-its-requests-with";
/// Publishers need it.
const PUBLISH_KEY: &str = "what-publishers-sign-their-tokens-with";
const PUBLISH_ISS: &str = "publisher";

/// A script that serves HTTP; it ends when dropped.
#[derive(Debug)]
pub struct Program {
    _child: Child,
    input: ChildStdin,
    addr: SocketAddr,
}

impl Program {
    /// Starts a script of this package with Python, and with what its requirements name.
    pub async fn python(script: &str, arguments: &[&str]) -> Self {
        let python = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/python/bin/python");
        Self::start(Path::new(python), script, arguments).await
    }

    /// Starts a script of this package with Node.
    pub async fn node(script: &str, arguments: &[&str]) -> Self {
        Self::start(Path::new("node"), script, arguments).await
    }

    async fn start(interpreter: &Path, script: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(interpreter)
            .arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(script))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", interpreter.display()));
        let input = child.stdin.take().expect("it is a pipe");
        let output = child.stdout.take().expect("it is a pipe");
        let mut lines = BufReader::new(output).lines();
        let line = within("the program's port", lines.next_line()).await;
        let port = match line {
            Ok(Some(port)) => port.parse().expect("it prints its port"),
            ended => panic!("{script} has no port: {ended:?}"),
        };
        Self {
            _child: child,
            input,
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        }
    }

    /// Starts a hub in front of the program that only it may publish to, and tells it so.
    pub async fn behind_hub(self) -> Served {
        let config = hub::config(&format!("http://{}", self.addr));
        self.served(config, None).await
    }

    /// Starts a hub and an edge in front of the program, as [`Self::behind_hub`]. The hub purges the
    /// edge before every item.
    pub async fn behind_edge_and_hub(self) -> Served {
        let manifest = edge::manifest(&format!("http://{}", self.addr));
        let edge = edge::start(manifest.with_secret("grip-key", VERIFY_KEY)).await;
        let mut config = hub::config(&edge.url());
        config.purge = Some(RawPurge {
            edge: Some(edge.url()),
            key: Some(edge::PURGE_KEY.to_owned()),
            ..RawPurge::default()
        });
        self.served(config, Some(edge)).await
    }

    async fn served(mut self, mut config: RawConfig, edge: Option<Viceroy>) -> Served {
        config.grip.sig_key = Some(VERIFY_KEY.to_owned());
        config.control_auth = Some(RawControlAuth {
            key: Some(PUBLISH_KEY.to_owned()),
            iss: Some(PUBLISH_ISS.to_owned()),
            ..RawControlAuth::default()
        });
        let hub = Hub::start_with(&config);
        let grip_url = format!(
            "http://{}?iss={PUBLISH_ISS}&key={PUBLISH_KEY}&verify-iss={SIG_ISS}&verify-key={VERIFY_KEY}\n",
            hub.control(),
        );
        let told = within("the program", self.input.write_all(grip_url.as_bytes())).await;
        told.expect("the program reads its input");
        Served {
            hub,
            edge,
            program: self,
        }
    }
}

/// A program behind a hub, and an edge perhaps.
#[derive(Debug)]
pub struct Served {
    /// What clients connect to.
    pub hub: Hub,
    edge: Option<Viceroy>,
    program: Program,
}

impl Served {
    /// Where the program is, for requests past the hub.
    pub fn origin(&self) -> SocketAddr {
        self.program.addr
    }

    /// What the edge has logged.
    ///
    /// # Panics
    /// If there is none.
    pub fn edge_log(&self) -> String {
        self.edge.as_ref().expect("there is an edge").log()
    }

    /// Asks the hub for something that is held, as a new client.
    pub async fn open(&self, target: &str, fields: &[&str]) -> Client {
        Client::get(self.hub.addr(), target, fields).await
    }

    /// Has the hub ask the application about all that is held; GRIP `/recover`.
    pub async fn recover(&self) {
        let key = format!("Authorization: Bearer {PUBLISH_KEY}");
        let control = self.hub.control();
        let response = client::request(control, "POST", "/recover", &[&key], " ").await;
        response.check(200, "Updated\n");
    }

    /// Has the application do something, through the hub, and fails unless it could.
    pub async fn tell(&self, target: &str, body: &Value) -> String {
        let fields = ["Content-Type: application/json"];
        let body = body.to_string();
        let response = client::request(self.hub.addr(), "POST", target, &fields, &body).await;
        assert_eq!(response.status(), 200, "{response:?}");
        response.text()
    }
}
