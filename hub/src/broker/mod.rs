//! The broker: which item comes after which, and which shards hear of it.
//!
//! [`channels::Broker`] is pure: it knows names, shards by number and items; it does not know
//! connections or threads. `thread` drives it. Of each channel, `sequencer` knows the order and
//! `history` the past; [`Duplicates`] finds what came before. [`pace`] purges before it publishes.

mod channels;
mod duplicates;
mod history;
mod intake;
pub(crate) mod pace;
mod sequencer;
pub(crate) mod size;
mod thread;
mod ticket;
mod view;

#[cfg(test)]
pub(crate) use channels::Broker;
pub(crate) use channels::{Repeats, Settings};
pub(crate) use duplicates::{Duplicates, Novelty};
pub(crate) use intake::{Admitted, Intake, Overloaded, Room, Waiting};
pub(crate) use thread::{BrokerHandle, Busy, spawn};
pub(crate) use ticket::Ticket;
pub(crate) use view::{ChannelView, HistoryView, Inspection};
