//! The edge policy.
