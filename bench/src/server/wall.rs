//! The [wall](crate::wall) as a process of its own.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use super::{Dialect, Server};
use crate::process::Process;
use crate::wall::Writes;

impl Server {
    /// Starts the wall on a processor.
    pub(crate) fn wall(writes: Writes, core: usize) -> io::Result<Self> {
        let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new(std::env::current_exe()?);
        let writes = match writes {
            Writes::Each => "each",
            Writes::Merged => "merged",
        };
        command.args(["wall", &free.to_string(), writes]);
        let mut process = Process::start(&mut command, &[core])?;
        until_it_listens(free, &mut process)?;
        Ok(Self {
            clients: free,
            publish: free,
            dialect: Dialect::Grip,
            processes: vec![process],
            _directory: None,
        })
    }
}

fn until_it_listens(at: SocketAddr, process: &mut Process) -> io::Result<()> {
    while TcpStream::connect(at).is_err() {
        if let Some(status) = process.child().try_wait()? {
            return Err(io::Error::other(format!("the wall ended: {status}")));
        }
    }
    Ok(())
}
