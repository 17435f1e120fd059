//! The broker: which item comes after which, and which shards hear of it.
//!
//! [`channels::Broker`] is pure: it knows names, shards by number and items; it does not know
//! connections or threads. `thread` drives it. History and the order by `prev-id` belong in files
//! beside `channels`; [`pace`] purges before it publishes.

mod channels;
pub(crate) mod pace;
mod thread;
mod ticket;

pub(crate) use thread::{BrokerHandle, spawn};
pub(crate) use ticket::Ticket;
