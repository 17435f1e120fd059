//! The command line of `live-counter`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Parser;
use live_counter::demo::Options;
use live_counter::stack::ports::Claim;
use live_counter::stack::repository;
use live_counter::stack::topology::Topology;
use live_counter::stack::viceroy::Interrupt;

const LONG_ABOUT: &str = "\
Runs Live Counter: an application whose page shows a counter that changes in all open browsers at \
once. Three parts are started on this machine, each on a port of its own (0 is any free one):

  hub      holds the browsers' connections and sends them what is published
  edge     the caching Compute module, run by Viceroy
  origin   the application, with its counters in a file

A browser asks the hub, the hub the edge, and the edge the origin if its cache has no answer. An \
increment makes the origin publish to the hub, which purges the edge and then tells everybody. In \
the topologies edge-front and fanout browsers ask the edge, which has the hub hold them.

The edge module is built first, and Viceroy is installed if it is missing; the latter takes some \
minutes, once. Ctrl-C stops everything.";

const AFTER_HELP: &str = "\
Examples:
  cargo demo                          the usual ports
  cargo demo --topology edge-front    clients connect to the edge
  cargo demo --hub-port 9000          the hub on port 9000
  cargo demo --data /tmp/c.redb       counters in another file
  cargo demo --log-level debug        what the origin and the hub are doing";

/// Live Counter: origin, edge and hub with one command.
#[derive(Debug, Parser)]
#[command(name = "live-counter", version, long_about = LONG_ABOUT, after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// Who is in front: hub-front, edge-front, or fanout, where the hub stands in for the managed
    /// service.
    #[arg(long, value_name = "NAME", default_value_t)]
    topology: Topology,

    /// Port of the hub for clients.
    #[arg(long, value_name = "PORT", default_value_t = 7999)]
    hub_port: u16,

    /// Port of the hub for publishers.
    #[arg(long, value_name = "PORT", default_value_t = 5561)]
    control_port: u16,

    /// Port of the edge in Viceroy.
    #[arg(long, value_name = "PORT", default_value_t = 7676)]
    edge_port: u16,

    /// Port of the origin.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    origin_port: u16,

    /// File with the counters, made if it is missing [default: target/live-counter/counters.redb in
    /// the repository, which `cargo clean` removes].
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,

    /// What is logged to standard error: error, warn, info, debug, trace, or a filter such as
    /// live_counter=debug,gripline_hub=info.
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "warn",
        env = "GRIPLINE_LOG_LEVEL"
    )]
    pub(crate) log_level: String,
}

impl Arguments {
    /// Everything that has to be free.
    pub(crate) fn claims(&self) -> [Claim; 4] {
        [
            claim("hub", "--hub-port", self.hub_port),
            claim("hub's publishers", "--control-port", self.control_port),
            claim("edge", "--edge-port", self.edge_port),
            claim("origin", "--origin-port", self.origin_port),
        ]
    }

    /// What to start.
    pub(crate) fn options(&self) -> Options {
        let default_data = || {
            let target = repository().join("target");
            target.join("live-counter").join("counters.redb")
        };
        Options {
            topology: self.topology,
            hub: local(self.hub_port),
            control: local(self.control_port),
            edge: local(self.edge_port),
            origin: local(self.origin_port),
            data: self.data.clone().unwrap_or_else(default_data),
            interrupt: Interrupt::Ours,
        }
    }
}

fn claim(part: &'static str, flag: &'static str, number: u16) -> Claim {
    Claim {
        part,
        flag,
        addr: local(number),
    }
}

/// The demo is for this machine only.
fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_usual_ports_are_those_that_grip_libraries_expect() {
        let options = Arguments::parse_from(["live-counter"]).options();
        let ports = [options.hub, options.control, options.edge, options.origin].map(|a| a.port());
        assert_eq!(ports, [7999, 5561, 7676, 8080]);
    }
}
