//! How far the life of the hub has come, as all of its threads see it.

use tokio::sync::watch;

/// How far the hub's life has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// Serving.
    Running,
    /// Letting go, at the latest within the drain window.
    Draining,
}

/// Waits until the hub drains; also when nobody is left who could say so.
pub(crate) async fn draining(life: &mut watch::Receiver<Life>) {
    let _ = life.wait_for(|life| *life == Life::Draining).await;
}
