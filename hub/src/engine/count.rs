//! How many connections hear a channel, for operators.

use grip::ChannelName;

use super::Engine;
use super::connections::Phase;
use crate::mailbox::Subscribers;

impl Engine {
    /// How many connections hear the channel. Looks at each of them, as a delivery does, so that
    /// nothing has to be kept up for it.
    pub(crate) fn count(&self, channel: &ChannelName) -> Subscribers {
        let mut count = Subscribers::default();
        for subscriber in self.subscriptions.of(channel) {
            match self.connections.phase(subscriber.connection) {
                Phase::Stream(_) => count.streams += 1,
                Phase::Response(_) => count.responses += 1,
                Phase::WebSocket(..) => count.websockets += 1,
                // Neither hears anything.
                Phase::Opening(_) | Phase::Ending => {}
            }
        }
        count
    }
}
