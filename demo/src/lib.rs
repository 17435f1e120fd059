//! Live Counter: a small application on Gripline, and the command that starts all of it.
//!
//! ```text
//! browser ──▶ hub ──▶ edge (Viceroy) ──▶ origin ── redb file
//!              ▲ publish and purge          │
//!              └────────────────────────────┘
//! ```
//!
//! The [`origin`] keeps counters and knows nothing of the edge: it answers requests and tells the hub
//! what changed. [`stack`] builds the edge module and runs it in Viceroy, also for the end-to-end
//! tests. [`demo`] wires origin, edge and hub together, starts them in order and stops them again.
//! The binary only adds arguments and progress lines.

pub mod counter;
pub mod demo;
pub mod origin;
pub mod stack;
