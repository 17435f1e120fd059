//! Pushpin, where it is installed.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use super::{Dialect, Server, free_address, is_installed, until_it_listens};
use crate::load::Kind;
use crate::process::{self, Process};

/// Where Debian puts what is not for users to change.
const INTERNAL: &str = "/usr/lib/pushpin/internal.conf";

impl Server {
    /// Starts Pushpin on a processor, without the limits that would slow it down.
    ///
    /// Its connection manager, condure, sends a keep-alive for some of its connections every tenth
    /// of a second: for 1 of 450 of those that there may be, however few there are. One that goes
    /// to the proxy while a client is handed over to the handler lacks there: the handler logs
    /// "received message out of sequence, canceling" and ends the client. So there may be hardly
    /// more connections than are needed, and few clients should come at a time.
    pub(crate) fn pushpin(
        core: usize,
        origin: SocketAddr,
        clients_at_most: usize,
    ) -> io::Result<Self> {
        is_installed("pushpin")?;
        is_installed("zurl")?;
        let directory = tempfile::tempdir()?;
        let path = directory.path();
        let (clients, publish) = (free_address()?, free_address()?);
        let place = path.display();
        // Its two threads do not share them evenly.
        let connections = clients_at_most + clients_at_most / 10 + 10;
        let (port, publish_port) = (clients.port(), publish.port());
        let config = format!(
            "[global]\ninclude={place}/internal.conf\nrundir={place}\nipc_prefix=b-\nport_offset=0\n\
             stats_connection_ttl=120\n\
             [runner]\nservices=condure,pushpin-proxy,pushpin-handler\nhttp_port={port}\nlogdir={place}\n\
             log_level=0\nclient_buffer_size=8192\nclient_maxconn={connections}\n\
             [proxy]\nroutesfile={place}/routes\nsig_key=changeme\n\
             [handler]\npush_in_spec=ipc://{place}/in\npush_in_sub_specs=ipc://{place}/sub\n\
             push_in_http_addr=127.0.0.1\npush_in_http_port={publish_port}\ncommand_spec=ipc://{place}/command\n\
             message_rate=100000000\nmessage_hwm=1000000\nconnection_subscription_max=1000\n\
             stats_spec=ipc://{place}/stats\n"
        );
        std::fs::write(path.join("pushpin.conf"), config)?;
        // How its programs find each other, and the one of the system that we have a copy of.
        let internal = std::fs::read_to_string(INTERNAL)?;
        let internal = internal.replace("/var/run/zurl", &place.to_string());
        std::fs::write(path.join("internal.conf"), internal)?;
        // What asks origins is a program of its own.
        let zurl_config = format!(
            "[General]\nin_spec=ipc://{place}/zurl-in\nin_stream_spec=ipc://{place}/zurl-in-stream\nout_spec=ipc://{place}/zurl-out\n\
             in_req_spec=ipc://{place}/zurl-req\nipc_file_mode=660\ndefpolicy=allow\nmax_open_requests=25000\n\
             buffer_size=200000\ntimeout=600\nin_hwm=100000\nout_hwm=100000\n"
        );
        std::fs::write(path.join("zurl.conf"), zurl_config)?;
        let mut zurl = process::program("zurl", &[core])?;
        zurl.arg(format!("--config={place}/zurl.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let zurl = Process::start(&mut zurl)?;
        std::fs::write(path.join("routes"), format!("* {origin},over_http\n"))?;
        let mut command = process::program("pushpin", &[core])?;
        command
            .arg(format!("--config={place}/pushpin.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit());
        let mut process = Process::start(&mut command)?;
        until_it_listens("Pushpin", publish, &mut process)?;
        until_it_listens("Pushpin", clients, &mut process)?;
        until_it_holds(clients)?;
        Ok(Self {
            clients,
            publish,
            dialect: Dialect::Grip,
            processes: vec![process, zurl],
            _directory: Some(directory),
        })
    }
}

/// It listens before all of its programs know each other.
fn until_it_holds(clients: SocketAddr) -> io::Result<()> {
    const ATTEMPTS: u32 = 100;
    for _ in 0..ATTEMPTS {
        let mut stream = TcpStream::connect(clients)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(&Dialect::Grip.subscribe(
            clients,
            Kind::Stream,
            std::iter::once(u32::MAX),
        ))?;
        let mut answer = [0; 512];
        let count = stream.read(&mut answer).unwrap_or(0);
        if answer[..count].starts_with(b"HTTP/1.1 200") {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(io::Error::other("Pushpin holds nobody"))
}
