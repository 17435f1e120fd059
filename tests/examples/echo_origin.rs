//! Runs `e2e::echo` on the port that it is told, until it is stopped.

use anyhow::Context as _;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let port = std::env::args().nth(1).context("which port?")?;
    let port: u16 = port.parse().context("a port is a number")?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    e2e::echo::serve(listener).await?;
    Ok(())
}
