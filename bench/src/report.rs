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
}

impl Row {
    pub(crate) fn new(scenario: &'static str, setting: &str, server: &str) -> Self {
        Self {
            scenario,
            setting: setting.to_owned(),
            server: server.to_owned(),
            figures: BTreeMap::new(),
            order: Vec::new(),
        }
    }

    /// The same with one figure more; its name has the unit.
    #[must_use]
    pub(crate) fn with(mut self, name: &'static str, value: f64) -> Self {
        self.figures.insert(name, value);
        self.order.push(name);
        self
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

    /// Takes rows of several rounds in, each figure as the median of them.
    pub(crate) fn add(&mut self, rounds: &[Row]) {
        for row in rounds {
            if self.rows.iter().any(|known| known.is_alike(row)) {
                continue;
            }
            let mut median = row.clone();
            for (name, value) in &mut median.figures {
                let alike = rounds.iter().filter(|other| other.is_alike(row));
                let mut values: Vec<f64> = alike
                    .filter_map(|it| it.figures.get(name).copied())
                    .collect();
                values.sort_by(f64::total_cmp);
                *value = values[values.len() / 2];
            }
            self.rows.push(median);
        }
    }

    /// Tables in Markdown, one for each scenario.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("{}\n", self.machine);
        let mut scenario = "";
        for row in &self.rows {
            if row.scenario != scenario {
                scenario = row.scenario;
                let names = row.order.join(" | ");
                let lines = "---:|".repeat(row.order.len());
                let heading = format!(
                    "\n### {scenario}\n\n| setting | server | {names} |\n|---|---|{lines}\n"
                );
                text.push_str(&heading);
            }
            let figures: Vec<String> = row
                .order
                .iter()
                .map(|name| number(row.figures[name]))
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
