//! The hub in this process, and what publishers and scrapers do with it.

use std::net::SocketAddr;
use std::path::Path;

use gripline_hub::config::{RawConfig, RawGrip};
use serde_json::{Value, json};

use crate::client::{self, Response};
use crate::{PATIENCE, within};

/// Signs what the hub sends to the origin, unless a test says otherwise.
pub const SIG_KEY: &str = "changeme";
/// The issuer that goes with it.
pub const SIG_ISS: &str = "e2e";

/// A running hub; it drains when dropped.
#[derive(Debug)]
pub struct Hub {
    running: Option<gripline_hub::Hub>,
    addr: SocketAddr,
    control: SocketAddr,
}

/// The configuration of a hub on free ports in front of this origin.
pub fn config(origin: &str) -> RawConfig {
    let any_port = || Some("127.0.0.1:0".to_owned());
    RawConfig {
        listen: any_port(),
        control: any_port(),
        origin: Some(origin.to_owned()),
        shards: Some(2),
        grip: RawGrip {
            sig_key: Some(SIG_KEY.to_owned()),
            sig_iss: Some(SIG_ISS.to_owned()),
            ..RawGrip::default()
        },
        ..RawConfig::default()
    }
}

impl Hub {
    /// Starts a hub in front of this origin, with [`config`].
    pub fn start(origin: &str) -> Self {
        Self::start_with(&config(origin))
    }

    /// Starts a hub.
    pub fn start_with(config: &RawConfig) -> Self {
        let config = config
            .check(Path::new(""))
            .unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let hub = gripline_hub::Hub::start(config).expect("the hub starts");
        Self {
            addr: hub.listen_addr(),
            control: hub.control_addr(),
            running: Some(hub),
        }
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where publishers connect.
    pub fn control(&self) -> SocketAddr {
        self.control
    }

    /// Publishes these items, and fails unless they are accepted.
    pub async fn publish(&self, items: Value) {
        let response = self.try_publish(&json!({"items": items}).to_string()).await;
        response.check(200, "Published\n");
    }

    /// Publishes content to the streams of a channel.
    pub async fn publish_stream(&self, channel: &str, content: &str) {
        let item = json!({"channel": channel, "formats": {"http-stream": {"content": content}}});
        self.publish(json!([item])).await;
    }

    /// Sends a publish request with this body.
    pub async fn try_publish(&self, body: &str) -> Response {
        self.post("/publish/", &[], body).await
    }

    /// Sends a `POST` to the control port.
    pub async fn post(&self, target: &str, fields: &[&str], body: &str) -> Response {
        client::request(self.control, "POST", target, fields, body).await
    }

    /// The value of a metric.
    pub async fn metric(&self, name: &str) -> u64 {
        let response = client::get(self.control, "/metrics", &[]).await;
        let text = response.text();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .unwrap_or_else(|| panic!("no {name} in\n{text}"));
        line.parse().expect("a metric is a number")
    }

    /// Asks for a metric again and again until it has this value.
    pub async fn until_metric(&self, name: &str, value: u64) {
        let mut last = value.wrapping_add(1);
        let reached = async {
            while last != value {
                last = self.metric(name).await;
            }
        };
        // Whether it was reached shows in the value.
        let _ = tokio::time::timeout(PATIENCE, reached).await;
        assert_eq!(last, value, "{name} after {PATIENCE:?}");
    }

    /// How many connections are subscribed to a channel. Publishes what changes nothing.
    pub async fn subscribers(&self, channel: &str) -> usize {
        let hint = json!({"action": "hint"});
        let item = json!({"channel": channel, "http-stream": hint, "ws-message": hint});
        let body = json!({"items": [item]}).to_string();
        let fields = ["Accept: application/json"];
        let response = self.post("/publish/", &fields, &body).await;
        let reply: Value = serde_json::from_str(&response.text()).expect("the reply is JSON");
        let matched = reply["matched"].as_u64().expect("it tells a number");
        usize::try_from(matched).expect("connections can be counted")
    }

    /// Waits until so many connections are subscribed to a channel.
    pub async fn until_subscribers(&self, channel: &str, count: usize) {
        let reached = async { while self.subscribers(channel).await != count {} };
        within("subscribers", reached).await;
    }

    /// Begins the drain.
    pub fn shut_down(&self) {
        if let Some(hub) = &self.running {
            hub.shutdown();
        }
    }

    /// Waits until a hub that was told to shut down has ended.
    pub async fn ended(&mut self) {
        if let Some(hub) = self.running.take() {
            let joined = tokio::task::spawn_blocking(move || hub.join());
            within("the hub's end", joined).await.expect("it ends");
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.shut_down();
    }
}
