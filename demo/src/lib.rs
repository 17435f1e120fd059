//! Live Counter: a small application on Gripline, and the command that starts all of it.
//!
//! ```text
//! browser ──▶ hub ──▶ edge (Viceroy) ──▶ origin ── redb file
//!              ▲ publish and purge          │
//!              └────────────────────────────┘
//! ```
//!
//! The [`origin`] keeps counters and knows nothing of the edge: it answers requests and tells the hub
//! what changed. [`stack`] starts the four programs in order and stops them again; the end-to-end
//! tests use it for Viceroy and the edge module. The binary only adds arguments and progress lines.

pub mod counter;
pub mod origin;
pub mod stack;
