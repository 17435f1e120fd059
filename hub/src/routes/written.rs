//! Routes as somebody wrote them: texts and their places, nothing of it checked.
//!
//! Both forms, the file's and that of `hub.toml`, become this, so that one check does for both. `P`
//! is what tells a place: a position in a file, or a key.

/// One route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written<P> {
    pub(super) condition: Section<P>,
    pub(super) targets: Vec<Section<P>>,
}

/// A value with properties: a condition or a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section<P> {
    pub(super) place: P,
    /// Empty if there is none.
    pub(super) value: String,
    pub(super) properties: Vec<Property<P>>,
}

/// A name, and a value unless it is a switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Property<P> {
    pub(super) place: P,
    pub(super) name: String,
    pub(super) value: Option<String>,
}

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem<P> {
    pub(super) place: P,
    pub(super) text: String,
}

impl<P> Section<P> {
    /// The same, with all of it in one place.
    pub(super) fn moved<Q: Clone>(self, place: &Q) -> Section<Q> {
        let moved = |property: Property<P>| Property {
            place: place.clone(),
            name: property.name,
            value: property.value,
        };
        Section {
            place: place.clone(),
            value: self.value,
            properties: self.properties.into_iter().map(moved).collect(),
        }
    }
}
