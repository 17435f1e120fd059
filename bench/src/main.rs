//! Measures the hub beside a raw epoll server and beside other hubs, in one run.
//!
//! Start with [`scenario`]: what is measured. [`load`] is how.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::print_stderr, reason = "and beside them how far it is")]
#![expect(clippy::cast_precision_loss, reason = "figures have three digits")]

mod item;
mod load;
mod machine;
mod origin;
mod process;
mod report;
mod scenario;
mod serve;
mod server;
mod socket;
mod wall;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use origin::Origin;
use report::{Report, Row};
use scenario::{Bench, Candidate};
use wall::Writes;

/// Measures how fast and how small the hub is.
#[derive(Debug, Parser)]
#[command(name = "gripline-bench", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// What to measure [default: everything].
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    /// How often each is measured; the median counts, and the sum of errors.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only the hub, nothing beside it.
    #[arg(long)]
    alone: bool,
    /// Where the results go as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The processor of the server that is measured.
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// The processor of clients, publishers and origin.
    #[arg(long, default_value_t = 1)]
    load_core: usize,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the raw epoll server, which the others are held against.
    Wall {
        /// Where it listens.
        at: SocketAddr,
        /// When it writes.
        #[arg(value_enum)]
        writes: Writes,
    },
    /// Becomes a program that ends with whoever started it.
    #[command(hide = true)]
    Run {
        /// The processors that it may use.
        #[arg(long = "core", required = true)]
        cores: Vec<usize>,
        /// The program.
        program: OsString,
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// One channel, many subscribers.
    Fanout,
    /// Many channels with few subscribers each.
    Channels,
    /// The cost of a delivery as channels become more.
    Flat,
    /// Memory of clients that hear nothing.
    Idle,
    /// Clients taken in a second.
    SetUp,
    /// Long-polls.
    Poll,
    /// A small channel beside a large one.
    Neighbour,
    /// Clients that stop reading.
    Slow,
    /// All clients drop and come back.
    Storm,
    /// Clients that subscribe and leave.
    Visits,
    /// What is asked of sockets.
    Sockets,
    /// Two shards beside one.
    Shards,
}

fn main() -> anyhow::Result<()> {
    let mut arguments = Arguments::parse();
    match arguments.command.take() {
        Some(Command::Wall { at, writes }) => match wall::run(at, writes)? {},
        Some(Command::Run {
            cores,
            program,
            arguments,
        }) => match process::become_program(&program, &arguments, &cores)? {},
        None => measure(&arguments),
    }
}

fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    let mut report = Report::new();
    process::raise_descriptors()?;
    server::build()?;
    process::pin(&[arguments.load_core])?;
    let bench = Bench {
        origin: Origin::start(&[arguments.load_core])?,
        core: arguments.core,
        load_core: arguments.load_core,
        rounds: arguments.rounds,
    };
    let candidates = if arguments.alone {
        vec![bench.hub()]
    } else {
        bench.all()
    };
    println!("{}", report.machine());
    for scenario in Scenario::value_variants() {
        let chosen = &arguments.scenarios;
        if chosen.is_empty() || chosen.contains(scenario) {
            println!("{}", report.add(&run(*scenario, &bench, &candidates)?));
            // What is there counts, whatever becomes of the rest.
            if let Some(file) = &arguments.json {
                report.save(file)?;
            }
        }
    }
    Ok(())
}

fn run(scenario: Scenario, bench: &Bench, candidates: &[Candidate]) -> std::io::Result<Vec<Row>> {
    Ok(match scenario {
        Scenario::Fanout => scenario::fanout::run(bench, candidates),
        Scenario::Channels => scenario::channels::run(bench, candidates),
        Scenario::Flat => scenario::channels::run_flat(bench),
        Scenario::Idle => scenario::idle::run(bench, candidates),
        Scenario::SetUp => scenario::set_up::run(bench, candidates),
        Scenario::Poll => scenario::poll::run(bench),
        Scenario::Neighbour => scenario::neighbour::run(bench),
        Scenario::Slow => scenario::slow::run(bench),
        Scenario::Storm => scenario::storm::run(bench),
        Scenario::Visits => scenario::visits::run(bench),
        Scenario::Sockets => scenario::sockets::run(bench),
        Scenario::Shards => {
            let cores = [bench.core, bench.load_core];
            let rows = scenario::shards::run(bench, candidates, &cores);
            process::pin(&[bench.load_core])?;
            rows
        }
    })
}
