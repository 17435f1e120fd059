//! What the hub does with the items of a channel: `[[channels]]`.

use std::time::Duration;

use super::{Checker, HistoryRule, RawChannelRule, RawConfig};

/// Longer than anybody should wait for news; also keeps sums of instants within their range.
const LONGEST: Duration = Duration::from_hours(24);

/// The rule for the channels whose names fit a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelRule {
    /// Which channels it is for.
    pub pattern: ChannelPattern,
    /// Whether the edge forgets the channel before an item goes out, unless the item says; absent:
    /// as it is usual.
    pub purge: Option<bool>,
    /// How long after an item the next ones wait, never nothing; absent: they don't.
    pub pace: Option<Duration>,
    /// What becomes of items that wait.
    pub keep: Keep,
    /// Longest wait for a purge; absent: as it is usual.
    pub deadline: Option<Duration>,
    /// What is remembered.
    pub history: HistoryRule,
}

/// What becomes of items that wait for each other's window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The newest replaces the others.
    Latest,
    /// All go out, in order.
    All,
}

/// A channel's name, or many: `*` stands for any run of characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelPattern(String);

impl ChannelPattern {
    /// Any text is a pattern.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Whether it is for the channel of this name.
    pub fn is_for(&self, name: &str) -> bool {
        let Some((start, rest)) = self.0.split_once('*') else {
            return self.0 == name;
        };
        let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
        let inner = name
            .strip_prefix(start)
            .and_then(|name| name.strip_suffix(end));
        // The first place where a part fits leaves the most for the parts behind it.
        let mut parts = middle.split('*');
        inner.is_some_and(|mut left| {
            parts.all(|part| match left.split_once(part) {
                Some((_, behind)) => {
                    left = behind;
                    true
                }
                None => false,
            })
        })
    }
}

impl Checker<'_> {
    pub(super) fn channel_rules(&mut self, raw: &RawConfig) -> Option<Vec<ChannelRule>> {
        let rules: Vec<_> = raw
            .channels
            .iter()
            .enumerate()
            .map(|(index, rule)| self.channel_rule(&format!("channels[{index}]"), rule, raw))
            .collect();
        rules.into_iter().collect()
    }

    fn channel_rule(
        &mut self,
        key: &str,
        rule: &RawChannelRule,
        raw: &RawConfig,
    ) -> Option<ChannelRule> {
        let pattern = self.channel_pattern(&format!("{key}.pattern"), rule.pattern.as_deref());
        if rule.purge == Some(true) && raw.purge.is_none() {
            self.mistake::<()>(
                &format!("{key}.purge"),
                "says true, but nothing says what to purge; give [purge] too",
            );
        }
        let pace = rule
            .pace
            .as_ref()
            .map(|pace| self.some_time(&format!("{key}.pace"), pace));
        let keep = self.keep(&format!("{key}.keep"), rule);
        let deadline = rule
            .deadline
            .as_ref()
            .map(|deadline| self.some_time(&format!("{key}.deadline"), deadline));
        let history = self.history_rule(key, rule);
        Some(ChannelRule {
            pattern: pattern?,
            purge: rule.purge,
            pace: super::present(pace)?,
            keep: keep?,
            deadline: super::present(deadline)?,
            history: history?,
        })
    }

    fn channel_pattern(&mut self, key: &str, text: Option<&str>) -> Option<ChannelPattern> {
        match text {
            Some(text) if !text.is_empty() => Some(ChannelPattern::new(text)),
            Some(_) => self.mistake(key, "is empty; give a channel's name, or * for all"),
            None => self.mistake(key, "is missing; give a channel's name, or * for all"),
        }
    }

    fn keep(&mut self, key: &str, rule: &RawChannelRule) -> Option<Keep> {
        let keep = match rule.keep.as_deref() {
            None => return Some(Keep::Latest),
            Some("latest") => Keep::Latest,
            Some("all") => Keep::All,
            Some(other) => {
                return self.mistake(
                    key,
                    format_args!("{other:?} is not known; give latest or all"),
                );
            }
        };
        if rule.pace.is_none() {
            return self.mistake(key, "needs pace beside it; without, no item waits");
        }
        Some(keep)
    }

    /// A duration that is not nothing, at most a day.
    pub(super) fn some_time(&mut self, key: &str, value: &str) -> Option<Duration> {
        let duration = self.short_time(key, value)?;
        if duration.is_zero() {
            return self.mistake(
                key,
                format_args!("{value:?} is no time at all; leave it out, or give more"),
            );
        }
        Some(duration)
    }

    /// At most a day.
    pub(super) fn short_time(&mut self, key: &str, value: &str) -> Option<Duration> {
        let duration = self.duration(key, value)?;
        if duration > LONGEST {
            return self.mistake(key, format_args!("{value:?} is too long; at most 1day"));
        }
        Some(duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, fits: &[&str], others: &[&str]) {
        let pattern = ChannelPattern::new(pattern);
        for name in fits {
            assert!(pattern.is_for(name), "{pattern:?} is for {name:?}");
        }
        for name in others {
            assert!(!pattern.is_for(name), "{pattern:?} is not for {name:?}");
        }
    }

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        check("a", &["a"], &["", "b", "aa"]);
        check("*", &["", "a", "a b"], &[]);
        check("a*", &["a", "ab", "a*"], &["", "ba"]);
        check("*a", &["a", "ba"], &["", "ab"]);
        check("a*a", &["aa", "aba"], &["a", "ab"]);
        check("a*b*c", &["abc", "axbxc", "abbc"], &["acb", "ac", "abcd"]);
        check("*ab*ab*", &["abab", "xabxabx"], &["ab", "aab", "abaxb"]);
        check("ü*", &["ü", "üb"], &["u"]);
    }
}
