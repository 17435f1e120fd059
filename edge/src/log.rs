//! Structured log lines, one JSON object each, to the log endpoint `gripline`.
//!
//! A module has no memory between requests, so what other programs count, it logs: counting the
//! lines of one `event` is counting the thing.

use std::io::Write as _;

use fastly::log::Endpoint;
use serde_json::{Map, Value};

/// Logs an event. Without such an endpoint the line is dropped.
pub(crate) fn event(name: &str, fields: &[(&str, &str)]) {
    let mut line = Map::new();
    line.insert("event".to_owned(), name.into());
    for (field, value) in fields {
        line.insert((*field).to_owned(), (*value).into());
    }
    if let Ok(mut endpoint) = Endpoint::try_from_name("gripline") {
        // One write is one line. Nobody could be told that the log is full.
        let line = Value::Object(line).to_string();
        let _ = endpoint.write_all(line.as_bytes());
    }
}
