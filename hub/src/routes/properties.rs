//! Which properties there are, and how they are taken from a section.

use std::fmt;

use super::check::Checker;
use super::written::{Problem, Property, Section};

/// How a property is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    /// `name=value`.
    Value,
    /// `name=value`, any number of times.
    Values,
    /// `name`.
    Switch,
    /// Not at all, for this reason.
    Refused(&'static str),
}

const NOT_OFFERED: Form = Form::Refused("is not offered");

pub(super) const CONDITION: &[(&str, Form)] = &[
    ("proto", Form::Value),
    ("ssl", Form::Value),
    ("path_beg", Form::Value),
    ("id", Form::Value),
    ("sig_iss", Form::Value),
    ("sig_key", Form::Value),
    ("prefix", Form::Value),
    ("as_host", Form::Value),
    ("path_rem", Form::Value),
    ("replace_beg", Form::Value),
    ("header", Form::Values),
    ("orig_headers", Form::Switch),
    ("debug", Form::Switch),
    ("aco", Form::Switch),
    ("jsonp_mode", Form::Value),
    ("jsonp_cb", Form::Value),
    ("jsonp_body", Form::Value),
    ("jsonp_defcb", Form::Value),
    ("jsonp_defmethod", Form::Value),
    ("session", NOT_OFFERED),
    ("sockjs", NOT_OFFERED),
    ("sockjs_as_path", NOT_OFFERED),
    ("compression", Form::Switch),
    ("sse_resume", Form::Switch),
    ("slow", Form::Value),
    ("no_grip", Form::Switch),
    ("log_level", Form::Value),
];

pub(super) const TARGET: &[(&str, Form)] = &[
    ("ssl", Form::Switch),
    ("host", Form::Value),
    ("trust_connect_host", Form::Switch),
    ("insecure", Form::Switch),
    ("untrusted", Form::Switch),
    ("over_http", Form::Switch),
    ("one_event", Form::Switch),
    ("sub", Form::Values),
    ("client_cert", Form::Value),
    ("client_key", Form::Value),
    (
        "ipc_file_mode",
        Form::Refused("is for ZeroMQ, which is not supported"),
    ),
];

/// The properties of a section that are known and in their form.
pub(super) struct Properties<'a, P>(Vec<&'a Property<P>>);

impl<'a, P> Properties<'a, P> {
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &'a Property<P>> {
        self.0.iter().copied().filter(move |it| it.name == name)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// What a switch turns on, if it is there.
    pub(super) fn switch<T: Default>(&self, name: &str, on: T) -> T {
        if self.has(name) { on } else { T::default() }
    }
}

impl<P: Clone + fmt::Display> Checker<'_, P> {
    pub(super) fn problem<T>(&mut self, place: &P, text: impl fmt::Display) -> Option<T> {
        self.problems.push(Problem {
            place: place.clone(),
            text: text.to_string(),
        });
        None
    }

    pub(super) fn no_effect(
        &mut self,
        properties: &Properties<'_, P>,
        names: &[&str],
        needed: &str,
    ) {
        for property in names.iter().flat_map(|name| properties.all(name)) {
            let name = &property.name;
            let text = format_args!("{name} has no effect without {needed}");
            self.problem::<()>(&property.place, text);
        }
    }

    /// The properties that a section may have.
    pub(super) fn properties<'s>(
        &mut self,
        section: &'s Section<P>,
        forms: &[(&str, Form)],
    ) -> Properties<'s, P> {
        let mut properties = Properties(Vec::new());
        for property in &section.properties {
            let name = &property.name;
            let form = forms.iter().find(|(known, _)| known == name);
            let text = match (form, &property.value) {
                (None, _) => format!("{name:?} is no property here"),
                (Some((_, Form::Refused(reason))), _) => format!("{name} {reason}"),
                (Some((_, Form::Switch)), Some(_)) => {
                    format!("{name} takes no value; give {name} alone")
                }
                (Some((_, Form::Value | Form::Values)), None) => {
                    format!("{name} has no value; give {name}=VALUE")
                }
                (Some((_, Form::Switch | Form::Value)), _) if properties.has(name) => {
                    format!("{name} is given twice")
                }
                _ => {
                    properties.0.push(property);
                    continue;
                }
            };
            self.problem::<()>(&property.place, text);
        }
        properties
    }

    /// The checked value of a property, if it is there and right.
    pub(super) fn value<T>(
        &mut self,
        properties: &Properties<'_, P>,
        name: &str,
        allowed: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let values = self.values(properties, name, allowed, parse);
        values.into_iter().next().map(|(_, value)| value)
    }

    /// The checked values of a property that may be there often.
    pub(super) fn values<'s, T>(
        &mut self,
        properties: &Properties<'s, P>,
        name: &str,
        allowed: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Vec<(&'s Property<P>, T)> {
        let mut values = Vec::new();
        for property in properties.all(name) {
            let text = property.value.as_deref().unwrap_or("");
            if let Some(value) = parse(text) {
                values.push((property, value));
            } else {
                let text = format_args!("{text:?} is no {name}; give {allowed}");
                self.problem::<()>(&property.place, text);
            }
        }
        values
    }
}
