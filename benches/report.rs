//! The report, as Markdown for people and as JSON for programs.

use crate::machine::{Machine, Memory};
use crate::rounds::Series;
use serde_json::{Value, json};
use std::fmt::Write;

/// The unit of the times of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    /// Milliseconds.
    Ms,
    /// Microseconds.
    Us,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Ms => "ms",
            Self::Us => "us",
        }
    }

    fn per(self, microseconds: f64) -> f64 {
        match self {
            Self::Ms => microseconds / 1e3,
            Self::Us => microseconds,
        }
    }
}

/// Series that belong together.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) note: String,
    pub(crate) unit: Unit,
    /// Indices of the series that the others are compared with.
    pub(crate) references: Vec<usize>,
    pub(crate) series: Vec<Series>,
}

/// The whole report.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) rounds: usize,
    pub(crate) tables: Vec<Table>,
    /// That of idle jails, if it was measured.
    pub(crate) memory: Option<Memory>,
}

impl Report {
    pub(crate) fn markdown(&self) -> String {
        let machine = &self.machine;
        let mut text = format!(
            "{} x {}{}, {} MiB, Linux {}, {}; {} rounds. Ratios are medians of the ratios of each round.\n\n",
            machine.processors,
            machine.processor,
            if machine.virtual_machine { " (a virtual machine)" } else { "" },
            machine.memory_mib,
            machine.kernel,
            machine.date,
            self.rounds
        );
        let peers: Vec<&str> = machine.peers.values().map(String::as_str).collect();
        line(&mut text, &format!("Peers: {}.", peers.join(", ")));
        for table in &self.tables {
            text.push_str(&table.markdown());
        }
        let Some(memory) = &self.memory else { return text };
        line(&mut text, "\n## An idle jail\n\n| | KiB |\n|---|--:|");
        line(&mut text, &format!("| init, the only jail (Pss) | {} |", memory.init_alone));
        line(&mut text, &format!("| init, one of {} jails (Pss) | {} |", memory.jails, memory.init_shared));
        line(&mut text, &format!("| of it init's alone | {} |", memory.init_private));
        line(&mut text, &format!("| the kernel's, for each of {} jails | {:.0} |", memory.jails, memory.kernel));
        text
    }

    pub(crate) fn json(&self) -> String {
        let machine = &self.machine;
        let memory = self.memory.as_ref().map(|memory| {
            json!({
                "init_alone": memory.init_alone, "init_shared": memory.init_shared, "init_private": memory.init_private,
                "kernel": memory.kernel, "jails": memory.jails,
            })
        });
        let value = json!({
            "machine": {
                "processor": machine.processor, "processors": machine.processors, "memory_mib": machine.memory_mib,
                "virtual": machine.virtual_machine, "kernel": machine.kernel, "peers": machine.peers,
            },
            "date": machine.date,
            "rounds": self.rounds,
            "tables": self.tables.iter().map(Table::json).collect::<Vec<Value>>(),
            "idle_kib": memory,
        });
        format!("{value:#}\n")
    }
}

impl Table {
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        line(&mut text, &format!("\n## {}\n\n{}\n", self.title, self.note));
        let references: Vec<&Series> = self.references.iter().map(|index| &self.series[*index]).collect();
        let heads: String = references.iter().map(|reference| format!(" ÷ {} |", reference.name)).collect();
        let unit = self.unit.name();
        line(&mut text, &format!("| | median {unit} | p95 {unit} |{heads} above {} {unit} |", references[0].name));
        line(&mut text, &format!("|---|--:|--:|{}--:|", "--:|".repeat(references.len())));
        for series in &self.series {
            let ratios: String =
                references.iter().map(|reference| format!(" {:.2} |", series.ratio_to(reference))).collect();
            if let Some(why) = &series.failure {
                let why = why.replace(['|', '\n'], " ");
                line(&mut text, &format!("| {} | failed: {why} |", series.name));
                continue;
            }
            let row = format!(
                "| {} | {:.2} | {:.2} |{ratios} {:.2} |",
                series.name,
                self.unit.per(series.quantile(0.5)),
                self.unit.per(series.quantile(0.95)),
                self.unit.per(series.above(references[0])),
            );
            line(&mut text, &row);
        }
        text
    }

    pub(crate) fn json(&self) -> Value {
        let row = |series: &Series| {
            let ratios = self.references.iter().map(|index| &self.series[*index]);
            let ratios: serde_json::Map<String, Value> =
                ratios.map(|reference| (reference.name.clone(), json!(series.ratio_to(reference)))).collect();
            json!({
                "name": series.name, "rounds": series.times.len(), "median_us": series.quantile(0.5),
                "p95_us": series.quantile(0.95), "ratio": ratios, "failure": series.failure,
            })
        };
        json!({ "title": self.title, "rows": self.series.iter().map(row).collect::<Vec<Value>>() })
    }
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a string takes everything");
}
