//! Channel names, and the channels that a response subscribes its client to.

use std::fmt;
use std::sync::Arc;

/// The name of a channel: any Unicode text, compared exactly.
///
/// Cheap to clone, because every subscription, index and item names its channel.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelName(Arc<str>);

impl ChannelName {
    /// A name of any length; parsers apply [`crate::Limits::channel_name_bytes`] before this.
    pub fn new(name: &str) -> Self {
        Self(Arc::from(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for ChannelName {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// The id of a published item, opaque to the hub.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId(Arc<str>);

impl ItemId {
    /// An id as the publisher or the origin wrote it.
    pub fn new(id: &str) -> Self {
        Self(Arc::from(id))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One channel of an instruction: GRIP `Grip-Channel`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// The channel's name, before a route's prefix is put in front.
    pub name: ChannelName,
    /// The id of the last item that the response already contains; `prev-id`.
    pub prev_id: Option<ItemId>,
    /// Names of filters in the order given, unknown ones included.
    pub filters: Vec<String>,
}
