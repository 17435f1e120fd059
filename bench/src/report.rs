//! What was measured, as a table and as JSON.

use std::collections::BTreeMap;
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

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            machine: Machine::this(),
            rows: Vec::new(),
        }
    }

    /// Takes rows of several rounds in, each figure as the median of them, and errors as their sum.
    pub(crate) fn add(&mut self, rounds: &[Row]) {
        for row in rounds {
            if self.rows.iter().any(|known| known.is_alike(row)) {
                continue;
            }
            let alike = || rounds.iter().filter(|other| other.is_alike(row));
            // A round that failed has fewer figures.
            let fullest = alike().max_by_key(|it| it.figures.len()).unwrap_or(row);
            let mut merged = fullest.clone();
            for (name, value) in &mut merged.figures {
                let mut values: Vec<f64> = alike()
                    .filter_map(|it| it.figures.get(name).copied())
                    .collect();
                values.sort_by(f64::total_cmp);
                *value = if merged.sums.contains(name) {
                    values.iter().sum()
                } else {
                    values[values.len() / 2]
                };
            }
            self.rows.push(merged);
        }
    }

    /// Tables in Markdown, one for each scenario.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("{}\n", self.machine);
        let mut scenario = "";
        let mut order = &Vec::new();
        for row in &self.rows {
            if row.scenario != scenario {
                scenario = row.scenario;
                let alike = self.rows.iter().filter(|it| it.scenario == scenario);
                let fullest = alike.max_by_key(|it| it.order.len()).unwrap_or(row);
                order = &fullest.order;
                let names = order.join(" | ");
                let lines = "---:|".repeat(order.len());
                let heading = format!(
                    "\n### {scenario}\n\n| setting | server | {names} |\n|---|---|{lines}\n"
                );
                text.push_str(&heading);
            }
            let figure = |name| row.figures.get(name).copied();
            let figures: Vec<String> = order
                .iter()
                .map(|name| figure(name).map_or_else(|| "-".to_owned(), number))
                .collect();
            text.push_str(&row.line(&figures));
        }
        text
    }

    /// Writes all of it as JSON.
    pub(crate) fn save(&self, file: &Path) -> io::Result<()> {
        std::fs::write(file, serde_json::to_string_pretty(self)?)
    }
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
    }
}
