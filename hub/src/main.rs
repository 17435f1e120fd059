//! `gripline-hub`: arguments, configuration, run, exit code.

mod arguments;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use gripline_hub::Hub;
use gripline_hub::config::{Config, DEFAULT_TOML};
use tokio::signal::unix::{Signal, SignalKind, signal};

use arguments::{Arguments, LogFormat};
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.print_config {
        let printed = std::io::stdout().write_all(DEFAULT_TOML.as_bytes());
        return ExitCode::from(u8::from(printed.is_err()));
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may be filtered; a hub that does not start says so whatever happens.
            let _ = writeln!(std::io::stderr(), "gripline-hub: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    start_logging(arguments)?;
    let config = arguments.config()?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve(config))
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let mut stop = Stop::new().context("cannot listen for signals")?;
    let is_random = config.signature.is_random;
    let origin = match &config.routes_file {
        Some(file) => file.display().to_string(),
        None => config.origin.to_string(),
    };
    // The routes file is read again by its own watcher; without one there is nothing to do, but
    // the signal must not end the hub.
    let _reload = signal(SignalKind::hangup()).context("cannot listen for signals")?;
    let open_files = gripline_hub::raise_open_files();
    let hub = Hub::start(config)?;
    tracing::info!(listen = %hub.listen_addr(), control = %hub.control_addr(), %origin, open_files, "hub runs");
    if is_random {
        tracing::warn!(
            "no sig-key is configured, so requests are signed with a random one: origins that check signatures will refuse them"
        );
    }
    stop.requested().await;
    tracing::info!("letting go of all connections; a second signal ends at once");
    hub.shutdown();
    let drained = tokio::task::spawn_blocking(move || hub.join());
    tokio::select! {
        joined = drained => {
            joined.context("cannot wait for the hub")?;
            tracing::info!("hub ended");
        }
        () = stop.requested() => {
            tracing::warn!("ended before all connections were let go");
            // The threads cannot be interrupted; the process can.
            std::process::exit(1);
        }
    }
    Ok(())
}

struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Cancel safe.
    async fn requested(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn start_logging(arguments: &Arguments) -> anyhow::Result<()> {
    let filter =
        tracing_subscriber::EnvFilter::try_new(&arguments.log_level).with_context(|| {
            format!(
                "--log-level: {:?} is no filter; give error, warn, info, debug or trace",
                arguments.log_level
            )
        })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match arguments.log {
        LogFormat::Human => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
