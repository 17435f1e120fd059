//! Which part of a query tells one answer from another.

/// What of a query counts, in the key and in what the origin is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum QueryRule {
    /// All of it, as sent.
    #[default]
    Exact,
    /// All of it, parameters sorted by name; those of one name keep their order.
    Sort,
    /// Nothing.
    Ignore,
    /// These parameters.
    Only(Vec<ParameterPattern>),
    /// All parameters but these.
    Without(Vec<ParameterPattern>),
}

/// A parameter's name, or how it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterPattern {
    name: String,
    is_beginning: bool,
}

impl ParameterPattern {
    /// `utm_source`, or `utm_*` for all that begin so. Compared as sent, without decoding.
    pub fn new(pattern: &str) -> Self {
        match pattern.strip_suffix('*') {
            Some(beginning) => Self {
                name: beginning.to_owned(),
                is_beginning: true,
            },
            None => Self {
                name: pattern.to_owned(),
                is_beginning: false,
            },
        }
    }

    fn matches(&self, name: &str) -> bool {
        if self.is_beginning {
            name.starts_with(&self.name)
        } else {
            name == self.name
        }
    }
}

impl QueryRule {
    /// A path and query as sent, with what counts of the query.
    pub(super) fn apply(&self, path_and_query: &str) -> String {
        let Some((path, query)) = path_and_query.split_once('?') else {
            return path_and_query.to_owned();
        };
        let is_in = |patterns: &[ParameterPattern], parameter: &str| {
            let name = name_of(parameter);
            patterns.iter().any(|pattern| pattern.matches(name))
        };
        let mut parameters: Vec<&str> = query.split('&').collect();
        match self {
            Self::Exact => return path_and_query.to_owned(),
            Self::Sort => parameters.sort_by_key(|parameter| name_of(parameter)),
            Self::Ignore => parameters.clear(),
            Self::Only(patterns) => parameters.retain(|it| is_in(patterns, it)),
            Self::Without(patterns) => parameters.retain(|it| !is_in(patterns, it)),
        }
        if parameters.is_empty() {
            return path.to_owned();
        }
        format!("{path}?{}", parameters.join("&"))
    }
}

fn name_of(parameter: &str) -> &str {
    parameter.split('=').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[track_caller]
    fn check(rule: &QueryRule, sent: &str, expected: &str) {
        assert_eq!(rule.apply(sent), expected, "{rule:?} {sent}");
    }

    #[test]
    fn what_counts_of_a_query_is_a_matter_of_configuration() {
        let patterns = || vec![ParameterPattern::new("a"), ParameterPattern::new("utm_*")];
        let sent = "/x?b=2&utm_source=y&a=1&a=0&&a";
        check(&QueryRule::Exact, sent, sent);
        check(&QueryRule::Sort, sent, "/x?&a=1&a=0&a&b=2&utm_source=y");
        check(&QueryRule::Ignore, sent, "/x");
        check(
            &QueryRule::Only(patterns()),
            sent,
            "/x?utm_source=y&a=1&a=0&a",
        );
        check(&QueryRule::Without(patterns()), sent, "/x?b=2&");
        check(&QueryRule::Without(patterns()), "/x?a=1", "/x");
        for rule in [QueryRule::Exact, QueryRule::Sort, QueryRule::Ignore] {
            check(&rule, "/x", "/x");
        }
    }
}
