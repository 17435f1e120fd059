//! What the edge decided about a request, for a line in the log and for those who debug.

use std::cell::RefCell;

use fastly::Response;
use http::HeaderName;

use crate::log;
use crate::visit::Visit;

/// The decisions, for a request that shows the debug key.
const GRIPLINE_TRACE: HeaderName = HeaderName::from_static("gripline-trace");

/// The decisions about one request: names and values, in the order in which they were made.
#[derive(Debug)]
pub(crate) struct Trace {
    notes: RefCell<Vec<(&'static str, String)>>,
    visibility: Visibility,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Visibility {
    Hidden,
    Shown,
}

impl Trace {
    pub(crate) fn hidden() -> Self {
        Self::new(Visibility::Hidden)
    }

    pub(crate) fn shown() -> Self {
        Self::new(Visibility::Shown)
    }

    fn new(visibility: Visibility) -> Self {
        Self {
            notes: RefCell::default(),
            visibility,
        }
    }

    /// Notes a decision; a later one of the same name replaces it.
    pub(crate) fn note(&self, name: &'static str, value: impl Into<String>) {
        let mut notes = self.notes.borrow_mut();
        let value = value.into();
        match notes.iter_mut().find(|(noted, _)| *noted == name) {
            Some(note) => note.1 = value,
            None => notes.push((name, value)),
        }
    }

    /// The header that tells the decisions, if they are to be told: `cache=hit; age=3`.
    pub(crate) fn header(&self) -> Option<(HeaderName, String)> {
        if self.visibility == Visibility::Hidden {
            return None;
        }
        let notes = self.notes.borrow();
        let notes: Vec<String> = notes
            .iter()
            .map(|(name, value)| format!("{name}={}", visible(value)))
            .collect();
        Some((GRIPLINE_TRACE, notes.join("; ")))
    }

    /// Tells the decisions in a response, if they are to be told.
    pub(crate) fn tell(&self, response: &mut Response) {
        if let Some((name, value)) = self.header() {
            response.set_header(name, value);
        }
    }
}

/// As it may stand in a header.
fn visible(value: &str) -> String {
    value.escape_default().to_string()
}

/// One line for the whole request.
pub(crate) fn log(visit: &Visit<'_>, status: Option<u16>) {
    let notes = visit.trace.notes.borrow();
    let status = status.map(|status| status.to_string());
    let mut fields = vec![
        ("method", visit.method().as_str()),
        ("host", visit.host()),
        ("path", visit.path()),
    ];
    fields.extend(status.iter().map(|status| ("status", status.as_str())));
    fields.extend(notes.iter().map(|(name, value)| (*name, value.as_str())));
    log::event("request", &fields);
}
