//! `Cache-Control` and its kin, and HTTP dates.

use http::header::{HeaderMap, HeaderName};

use crate::UnixTime;

/// The directives of one header, over all of its lines; RFC 9111 §5.2.
#[derive(Debug, Default)]
pub(super) struct Directives(Vec<(String, Option<String>)>);

impl Directives {
    pub(super) fn of(headers: &HeaderMap, name: &HeaderName) -> Self {
        let directives = headers
            .get_all(name)
            .iter()
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(','))
            .filter_map(|directive| {
                let (name, value) = match directive.split_once('=') {
                    Some((name, value)) => (name, Some(value.trim().trim_matches('"').to_owned())),
                    None => (directive, None),
                };
                let name = name.trim().to_ascii_lowercase();
                (!name.is_empty()).then_some((name, value))
            })
            .collect();
        Self(directives)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(found, _)| found == name)
    }

    /// A duration in seconds. One that is no number counts as zero, as RFC 9111 §4.2.1 advises.
    pub(super) fn seconds(&self, name: &str) -> Option<u64> {
        let (_, value) = self.0.iter().find(|(found, _)| found == name)?;
        Some(value.as_deref().map_or(0, seconds))
    }
}

/// Digits only; a number too large for this type is as good as for ever.
fn seconds(value: &str) -> u64 {
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    if is_number {
        value.parse().unwrap_or(u64::MAX)
    } else {
        0
    }
}

/// A date as servers must write it, such as `Sun, 06 Nov 1994 08:49:37 GMT`; RFC 9110 §5.6.7.
///
/// The two obsolete forms give `None`.
pub(super) fn http_date(value: &str) -> Option<UnixTime> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (_weekday, rest) = value.trim().split_once(", ")?;
    let mut parts = rest.split(' ');
    let day: u64 = parts.next()?.parse().ok()?;
    let month = parts.next()?;
    let month = MONTHS.iter().position(|name| *name == month)? as u64;
    let year: u64 = parts.next()?.parse().ok()?;
    let mut clock = parts.next()?.split(':').map(str::parse::<u64>);
    let mut next = || clock.next()?.ok();
    let (hour, minute, second) = (next()?, next()?, next()?);
    let is_gmt = parts.next()? == "GMT";
    let is_date = (1970..=9999).contains(&year) && (1..=31).contains(&day);
    if !is_gmt || !is_date || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = days_since_epoch(year, month + 1, day)?;
    Some(UnixTime(days * 86_400 + hour * 3600 + minute * 60 + second))
}

/// Days from 1970-01-01 in the Gregorian calendar, counted in years that begin with March.
fn days_since_epoch(year: u64, month: u64, day: u64) -> Option<u64> {
    const DAYS_BEFORE_EPOCH: u64 = 719_468;
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + day_of_year;
    days.checked_sub(DAYS_BEFORE_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use http::header::CACHE_CONTROL;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[track_caller]
    fn check(value: &'static str, name: &str, expected: Option<u64>) {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(value));
        let directives = Directives::of(&headers, &CACHE_CONTROL);
        assert_eq!(directives.seconds(name), expected, "{value}");
    }

    #[test]
    fn durations_are_whole_seconds() {
        check("public, Max-Age=60", "max-age", Some(60));
        check("max-age=\"60\"", "max-age", Some(60));
        check("max-age = 60", "max-age", Some(60));
        check("s-maxage=1", "max-age", None);
        check("max-age=-1", "max-age", Some(0));
        check("max-age=1.5", "max-age", Some(0));
        check("max-age", "max-age", Some(0));
        check("max-age=99999999999999999999", "max-age", Some(u64::MAX));
    }

    #[test]
    fn dates_are_of_the_preferred_form() {
        let at = |text| http_date(text).map(|time| time.0);
        assert_eq!(at("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(at("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(at("Thu, 29 Feb 2024 12:00:00 GMT"), Some(1_709_208_000));
        for bad in [
            "",
            "0",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 99 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 0000 08:49:37 GMT",
        ] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_calendar_is_counted_day_by_day() {
        const MONTHS: [(&str, u64); 12] = [
            ("Jan", 31),
            ("Feb", 28),
            ("Mar", 31),
            ("Apr", 30),
            ("May", 31),
            ("Jun", 30),
            ("Jul", 31),
            ("Aug", 31),
            ("Sep", 30),
            ("Oct", 31),
            ("Nov", 30),
            ("Dec", 31),
        ];
        let mut days = 0;
        for year in 1970_u64..=2400 {
            let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            for (month, length) in MONTHS {
                let length = length + u64::from(is_leap && month == "Feb");
                for day in 1..=length {
                    let text = format!("Sun, {day:02} {month} {year} 23:59:58 GMT");
                    let expected = UnixTime(days * 86_400 + 86_398);
                    assert_eq!(http_date(&text), Some(expected), "{text}");
                    days += 1;
                }
            }
        }
    }
}
