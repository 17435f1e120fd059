//! Routes files, and targets that nobody listens on.

use std::fmt::{Display, Write as _};
use std::io;
use std::net::SocketAddr;

use gripline_hub::config::RawConfig;
use tempfile::TempDir;
use tokio::net::TcpSocket;

use crate::hub;

/// A routes file in a directory of its own, which is removed with it.
#[derive(Debug)]
pub struct RoutesFile {
    directory: TempDir,
}

impl RoutesFile {
    /// A file of these lines.
    pub fn new(lines: &[impl Display]) -> Self {
        let directory = tempfile::tempdir().expect("there is room for a directory");
        let file = Self { directory };
        file.write(lines);
        file
    }

    /// Replaces all lines.
    pub fn write(&self, lines: &[impl Display]) {
        let mut text = String::new();
        for line in lines {
            writeln!(text, "{line}").expect("a String takes all that is written");
        }
        // Put in place whole: a file that is half written would be read as well.
        let other = self.directory.path().join("routes~");
        let written =
            std::fs::write(&other, text).and_then(|()| std::fs::rename(other, self.path()));
        written.expect("the file can be written");
    }

    /// The configuration of a hub on free ports with these routes.
    pub fn config(&self) -> RawConfig {
        RawConfig {
            origin: None,
            routes_file: Some(self.path()),
            ..hub::config("")
        }
    }

    fn path(&self) -> String {
        let path = self.directory.path().join("routes");
        path.to_str().expect("its name is text").to_owned()
    }
}

/// An address that refuses connections as long as this lives.
#[derive(Debug)]
pub struct Refuser {
    // Bound, so that nobody else gets the port, but it does not listen.
    _socket: TcpSocket,
    addr: SocketAddr,
}

impl Refuser {
    /// Takes a free port.
    #[expect(clippy::new_without_default, reason = "takes a port")]
    pub fn new() -> Self {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::at(any_port).expect("a port is free")
    }

    /// Takes the place of somebody who listened there.
    pub(crate) fn at(addr: SocketAddr) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        // Connections from before may linger.
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        Ok(Self {
            addr: socket.local_addr()?,
            _socket: socket,
        })
    }

    /// Where nobody listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}
