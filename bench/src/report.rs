//! What was measured, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;

use serde::Serialize;

use crate::machine::Machine;

/// All results of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    rows: Vec<Row>,
}

/// The figures of one server in one setting.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// What was done.
    scenario: &'static str,
    /// With whom, how and how many.
    setting: String,
    server: String,
    figures: BTreeMap<&'static str, f64>,
    /// The figures of each round, where there were several.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    rounds: BTreeMap<&'static str, Vec<f64>>,
    #[serde(skip)]
    order: Vec<&'static str>,
    /// Figures that are added up over the rounds.
    #[serde(skip)]
    sums: Vec<&'static str>,
}

impl Row {
    pub(crate) fn new(scenario: &'static str, setting: &str, server: &str) -> Self {
        Self {
            scenario,
            setting: setting.to_owned(),
            server: server.to_owned(),
            figures: BTreeMap::new(),
            rounds: BTreeMap::new(),
            order: Vec::new(),
            sums: Vec::new(),
        }
    }

    /// The same with one figure more; its name has the unit.
    #[must_use]
    pub(crate) fn with(mut self, name: &'static str, value: f64) -> Self {
        self.figures.insert(name, value);
        self.order.push(name);
        self
    }

    /// The same with a number of errors, which counts in whichever round it was.
    #[must_use]
    pub(crate) fn with_count(mut self, name: &'static str, value: u64) -> Self {
        self.sums.push(name);
        self.with(name, value as f64)
    }

    fn line(&self, figures: &[String]) -> String {
        let Self {
            setting, server, ..
        } = self;
        format!("| {setting} | {server} | {} |\n", figures.join(" | "))
    }

    fn is_alike(&self, other: &Self) -> bool {
        self.scenario == other.scenario
            && self.setting == other.setting
            && self.server == other.server
    }
}

impl fmt::Display for Row {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            scenario,
            setting,
            server,
            ..
        } = self;
        write!(formatter, "{scenario}: {setting}, {server}")
    }
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            machine: Machine::this(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Takes the rows of a scenario's rounds in, each figure as the median of them, and errors as
    /// their sum. Gives its tables.
    pub(crate) fn add(&mut self, rounds: &[Row]) -> String {
        let known = self.rows.len();
        for row in rounds {
            if !self.rows.iter().any(|known| known.is_alike(row)) {
                let alike = rounds.iter().filter(|it| it.is_alike(row));
                self.rows.push(merged(&alike.collect::<Vec<_>>()));
            }
        }
        table(&self.rows[known..])
    }

    /// Writes all of it as JSON.
    pub(crate) fn save(&self, file: &Path) -> io::Result<()> {
        std::fs::write(file, serde_json::to_string_pretty(self)?)
    }
}

/// One row for those of several rounds.
fn merged(rounds: &[&Row]) -> Row {
    // A round that failed has fewer figures.
    let fullest = rounds.iter().max_by_key(|it| it.figures.len());
    let mut merged = Row::clone(fullest.expect("a row is like itself"));
    for (name, value) in &mut merged.figures {
        let figures = rounds.iter().filter_map(|it| it.figures.get(name));
        let figures: Vec<f64> = figures.copied().collect();
        *value = if merged.sums.contains(name) {
            figures.iter().sum()
        } else {
            median(&figures)
        };
        if figures.len() > 1 {
            merged.rounds.insert(name, figures);
        }
    }
    merged
}

/// Half of them are less, half of them are more.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

/// Tables in Markdown, one for each scenario.
fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    for rows in rows.chunk_by(|a, b| a.scenario == b.scenario) {
        let order = columns(rows);
        let names = order.join(" | ");
        let lines = "---:|".repeat(order.len());
        let scenario = rows[0].scenario;
        let heading =
            format!("\n### {scenario}\n\n| setting | server | {names} |\n|---|---|{lines}\n");
        text.push_str(&heading);
        for row in rows {
            let figure = |name| row.figures.get(name).copied();
            let figures = order.iter();
            let figures = figures.map(|name| figure(name).map_or_else(|| "-".to_owned(), number));
            text += &row.line(&figures.collect::<Vec<_>>());
        }
    }
    text
}

/// All figures that any of the rows has.
fn columns(rows: &[Row]) -> Vec<&'static str> {
    let mut columns: Vec<&str> = Vec::new();
    for name in rows.iter().flat_map(|row| &row.order) {
        if !columns.contains(name) {
            columns.push(name);
        }
    }
    columns
}

/// A figure with as many digits as it has meaning.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_all_rounds_count() {
        let row = || Row::new("a", "b", "c");
        let mut report = Report::new();
        report.add(&[
            row().with("us", 5.0).with_count("lost", 0),
            row().with_count("failed", 1),
            row().with("us", 1.0).with_count("lost", 7),
            row().with("us", 3.0).with_count("lost", 0),
        ]);
        let [row] = &report.rows[..] else {
            panic!("one row for all rounds");
        };
        assert!((row.figures["us"] - 3.0).abs() < 1e-9);
        assert!((row.figures["lost"] - 7.0).abs() < 1e-9);
        assert_eq!(row.rounds["us"], [5.0, 1.0, 3.0]);
    }

    #[test]
    fn the_median_of_an_even_count_is_between_the_two_in_the_middle() {
        assert!((median(&[9.0, 1.0, 2.0, 4.0]) - 3.0).abs() < 1e-9);
        assert!((median(&[9.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_table_has_the_figures_of_all_rows() {
        let row = |setting| Row::new("a", setting, "c");
        let rows = [
            row("1").with("us", 1.0),
            row("2").with("us", 2.0).with("MB", 3.0),
        ];
        let table = Report::new().add(&rows);
        assert!(table.contains("| 1 | c | 1.00 | - |"), "{table}");
        assert!(table.contains("| 2 | c | 2.00 | 3.00 |"), "{table}");
    }
}
