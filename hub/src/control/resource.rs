//! What a request to the control port is about.

use http::Method;

/// What there is on the control port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource<'a> {
    /// A word of greeting.
    Root,
    /// Publishing items.
    Publish,
    /// Having held clients ask the origin what they have missed.
    Recover,
    /// The hub's counters.
    Metrics,
    /// Whether the hub runs.
    Health,
    /// The channels that are known, page by page.
    Channels,
    /// One channel; its name is percent-encoded.
    Channel(&'a str),
}

impl<'a> Resource<'a> {
    /// What is found at a path, with or without `base` before it and one slash after it. The query
    /// means nothing, with one exception: a library that is configured with a query puts its path
    /// behind that, as in `/base?x=1/publish/`.
    ///
    /// The name of a channel is all that follows `/channels/`, slashes included.
    pub(super) fn find(base: &str, path: &'a str, query: &str) -> Option<Self> {
        let path = path
            .strip_prefix(base)
            .filter(|rest| rest.is_empty() || rest.starts_with('/'))
            .unwrap_or(path);
        match path.strip_prefix("/channels/") {
            None | Some("") => {}
            Some(name) => return Some(Self::Channel(name)),
        }
        match without_slash(path) {
            "" if without_slash(query).ends_with("/publish") => Some(Self::Publish),
            "" => Some(Self::Root),
            "/publish" => Some(Self::Publish),
            "/recover" => Some(Self::Recover),
            "/metrics" => Some(Self::Metrics),
            "/health" => Some(Self::Health),
            "/channels" => Some(Self::Channels),
            _ => None,
        }
    }

    /// The only method it takes; `None` if it takes any.
    pub(super) fn method(self) -> Option<Method> {
        match self {
            Self::Root => None,
            Self::Publish | Self::Recover => Some(Method::POST),
            Self::Metrics | Self::Health | Self::Channels | Self::Channel(_) => Some(Method::GET),
        }
    }

    /// Whether it is for publishers that have proved who they are.
    pub(super) fn is_protected(self) -> bool {
        match self {
            Self::Publish | Self::Recover | Self::Channels | Self::Channel(_) => true,
            Self::Root | Self::Metrics | Self::Health => false,
        }
    }
}

fn without_slash(path: &str) -> &str {
    path.strip_suffix('/').unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(base: &str, target: &str, expected: Option<Resource<'_>>) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let found = Resource::find(base, path, query);
        assert_eq!(found, expected, "{target} below {base:?}");
    }

    #[test]
    fn one_slash_at_the_end_means_nothing() {
        for base in ["", "/service/x"] {
            for (target, expected) in [
                ("/", Some(Resource::Root)),
                ("/publish", Some(Resource::Publish)),
                ("/publish/", Some(Resource::Publish)),
                ("/recover", Some(Resource::Recover)),
                ("/recover/", Some(Resource::Recover)),
                ("/metrics", Some(Resource::Metrics)),
                ("/health/", Some(Resource::Health)),
                ("/channels", Some(Resource::Channels)),
                ("/channels/", Some(Resource::Channels)),
                ("//", None),
                ("/publish//", None),
                ("//publish/", None),
                ("/publish/more", None),
                ("/Publish", None),
                ("/nothing", None),
            ] {
                check(base, target, expected);
                check(base, &format!("{base}{target}"), expected);
            }
        }
    }

    #[test]
    fn a_channels_name_is_all_that_follows() {
        for base in ["", "/service/x", "/channels"] {
            for name in ["a", "a/", "/", "a/b", "%2F", "a%20b", "publish"] {
                let target = format!("{base}/channels/{name}");
                check(base, &target, Some(Resource::Channel(name)));
                check(
                    base,
                    &format!("{target}?x=/publish"),
                    Some(Resource::Channel(name)),
                );
            }
        }
        check("", "/channelsa", None);
        check("", "/channel/a", None);
    }

    #[test]
    fn the_query_means_nothing() {
        check("", "/publish/?x=1", Some(Resource::Publish));
        check("", "/publish?", Some(Resource::Publish));
        check("", "/recover?x=/publish/", Some(Resource::Recover));
        check("/b", "/b/publish/?x=1", Some(Resource::Publish));
        check("", "/?x=1", Some(Resource::Root));
        check("", "/nothing?x=/publish/", None);
    }

    #[test]
    fn a_path_in_the_query_is_what_a_library_does() {
        check("", "/?x=1/publish/", Some(Resource::Publish));
        check("", "/?x=1/publish", Some(Resource::Publish));
        check("/b", "/b?x=1/publish/", Some(Resource::Publish));
        check("/b", "/b/?x=1&y=2/publish/", Some(Resource::Publish));
        check("/b", "/b?x=1/publish/more", Some(Resource::Root));
        check("/b", "/b?publish/", Some(Resource::Root));
        check("", "/b?x=1/publish/", None);
    }

    #[test]
    fn a_base_ends_where_a_part_of_the_path_ends() {
        check("/service/x", "/service/x", Some(Resource::Root));
        check("/service/x", "/service/x/", Some(Resource::Root));
        check("/service/x", "/service/xy/publish/", None);
        check("/service/x", "/service/xpublish/", None);
        check("/service/x", "/service/y/publish/", None);
        check("/service/x", "/service/publish/", None);
        check("", "/service/x/publish/", None);
        check("/publish", "/publish", Some(Resource::Root));
        check("/publish", "/publish/publish", Some(Resource::Publish));
    }
}
