//! The [wall](crate::wall) as a process of its own.

use std::io;

use super::{Dialect, Server, free_address, until_it_listens};
use crate::process::{self, Process};
use crate::wall::Writes;

impl Server {
    /// Starts the wall on a processor.
    pub(crate) fn wall(writes: Writes, core: usize) -> io::Result<Self> {
        let address = free_address()?;
        let mut command = process::program(std::env::current_exe()?, &[core])?;
        let writes = match writes {
            Writes::Each => "each",
            Writes::Merged => "merged",
        };
        command.args(["wall", &address.to_string(), writes]);
        let mut process = Process::start(&mut command)?;
        until_it_listens("the wall", address, &mut process)?;
        Ok(Self {
            clients: address,
            publish: address,
            dialect: Dialect::Grip,
            processes: vec![process],
            _directory: None,
        })
    }
}
