//! `live-counter`: what `cargo demo` runs. Arguments, progress lines, signals, exit code.

mod arguments;
mod output;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use live_counter::demo::Demo;
use live_counter::stack::ports;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use arguments::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    start_log(arguments)?;
    let runtime = Runtime::new().context("cannot start threads")?;
    let result = runtime.block_on(run_until_stopped(arguments));
    // Whatever still blocks a thread has nothing to finish.
    runtime.shutdown_background();
    result
}

fn start_log(arguments: &Arguments) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&arguments.log_level)
        .with_context(|| format!("--log-level {} is no filter", arguments.log_level))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}

async fn run_until_stopped(arguments: &Arguments) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("cannot listen for signals")?;
    // Before anything is built: that may take minutes.
    ports::check_free(&arguments.claims())?;
    let options = arguments.options();
    let mut steps = output::Steps;
    let mut demo = tokio::select! {
        started = Demo::start(&options, &mut steps) => started?,
        () = signals.next() => {
            output::line("stopped before everything was started");
            return Ok(());
        }
    };
    output::started(&demo, &options);
    let outcome = tokio::select! {
        () = signals.next() => Ok(()),
        error = demo.failed() => Err(error),
    };
    output::line("stopping");
    tokio::select! {
        stopped = demo.stop() => outcome.and(stopped),
        () = signals.next() => outcome.and(Err(anyhow::anyhow!("stopped at once by a second signal"))),
    }
}

/// Everything that tells a program in a terminal to end.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            // Viceroy does not get it when the terminal goes away, so it must be ended by us.
            signal(SignalKind::hangup())?,
        ]))
    }

    /// Waits for the next one. Cancel safe.
    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
