//! The report: Markdown for people, one table as soon as it is measured, and JSON for programs.
//!
//! No result is lost: when something of ours fails and ends the run, JSON still has every table that was done.

use crate::machine::{Machine, Memory};
use crate::rounds::Series;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{self, Write as _};

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Markdown,
    Json,
}

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

/// The JSON of an earlier run, to compare with.
#[derive(Debug)]
pub(crate) struct Earlier(Value);

/// The report of one run. Dropping it prints what is not printed yet.
pub(crate) struct Report {
    form: Form,
    rounds: usize,
    earlier: Option<Earlier>,
    machine: Machine,
    tables: Vec<Table>,
    memory: Vec<Memory>,
    /// The first error of the output. The run goes on: whoever reads may want the rest of the messages.
    failure: Option<io::Error>,
    is_complete: bool,
}

impl Report {
    pub(crate) fn new(form: Form, rounds: usize, earlier: Option<Earlier>) -> Self {
        let report = Self {
            form,
            rounds,
            earlier,
            machine: Machine::here(),
            tables: Vec::new(),
            memory: Vec::new(),
            failure: None,
            is_complete: false,
        };
        let head = report.head();
        report.printing(Form::Markdown, &head)
    }

    /// Prints a table, or keeps it for the JSON.
    pub(crate) fn add(&mut self, table: Table) {
        self.print(Form::Markdown, &table.markdown(self.earlier.as_ref()));
        self.tables.push(table);
    }

    /// The same with the memory of idle jails.
    pub(crate) fn add_memory(&mut self, memory: Memory) {
        let mut text = String::new();
        if self.memory.is_empty() {
            line(&mut text, "\n## An idle jail of profile `web`, in KiB\n");
            line(&mut text, "| new jails | the kernel's, each | init's alone | init (Pss) |\n|--:|--:|--:|--:|");
        }
        let Memory { jails, kernel, init_private, init_shared } = memory;
        line(&mut text, &format!("| {jails} | {kernel:.0} | {init_private} | {init_shared} |"));
        self.print(Form::Markdown, &text);
        self.memory.push(memory);
    }

    /// Ends the report.
    ///
    /// # Errors
    /// The first error of the output.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.is_complete = true;
        self.print(Form::Json, &self.json());
        self.form = Form::Markdown;
        self.failure.take().map_or(Ok(()), Err)
    }

    fn printing(mut self, form: Form, text: &str) -> Self {
        self.print(form, text);
        self
    }

    fn print(&mut self, form: Form, text: &str) {
        if self.form != form {
            return;
        }
        let mut output = io::stdout();
        if let Err(error) = output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
            self.failure.get_or_insert(error);
        }
    }

    fn head(&self) -> String {
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
        text
    }

    fn json(&self) -> String {
        let machine = &self.machine;
        let memory = |memory: &Memory| {
            json!({
                "jails": memory.jails, "kernel": memory.kernel, "init_private": memory.init_private,
                "init_shared": memory.init_shared,
            })
        };
        let value = json!({
            "machine": {
                "processor": machine.processor, "processors": machine.processors, "memory_mib": machine.memory_mib,
                "virtual": machine.virtual_machine, "kernel": machine.kernel, "peers": machine.peers,
            },
            "date": machine.date,
            "rounds": self.rounds,
            "complete": self.is_complete,
            "tables": self.tables.iter().map(Table::json).collect::<Vec<Value>>(),
            "idle_kib": self.memory.iter().map(memory).collect::<Vec<Value>>(),
        });
        format!("{value:#}\n")
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if !self.is_complete {
            self.print(Form::Json, &self.json());
        }
    }
}

impl Earlier {
    /// Reads the JSON of an earlier run.
    pub(crate) fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text).map(Self)
    }

    /// The ratio of a row to its table's first reference.
    fn ratio(&self, title: &str, name: &str, reference: &str) -> Option<f64> {
        let find = |list: &Value, key: &str, wanted: &str| {
            list.as_array()?.iter().find(|entry| entry[key].as_str() == Some(wanted)).cloned()
        };
        let table = find(&self.0["tables"], "title", title)?;
        find(&table["rows"], "name", name)?["ratio"][reference].as_f64()
    }
}

impl Table {
    pub(crate) fn markdown(&self, earlier: Option<&Earlier>) -> String {
        let mut text = String::new();
        line(&mut text, &format!("\n## {}\n\n{}\n", self.title, self.note));
        let references: Vec<&Series> = self.references.iter().map(|index| &self.series[*index]).collect();
        let first = &references[0].name;
        let heads: String = references.iter().map(|reference| format!(" ÷ {} |", reference.name)).collect();
        let (head, rule) = earlier.map_or((String::new(), ""), |_| (format!(" ÷ {first} before |"), "--:|"));
        let unit = self.unit.name();
        line(&mut text, &format!("| | median {unit} | p95 {unit} |{heads} above {first} {unit} |{head}"));
        line(&mut text, &format!("|---|--:|--:|{}--:|{rule}", "--:|".repeat(references.len())));
        for series in &self.series {
            let ratios: String =
                references.iter().map(|reference| format!(" {:.2} |", series.ratio_to(reference))).collect();
            if let Some(why) = &series.failure {
                let why = why.replace(['|', '\n'], " ");
                line(&mut text, &format!("| {} | failed: {why} |", series.name));
                continue;
            }
            let before = |earlier: &Earlier| match earlier.ratio(&self.title, &series.name, first) {
                Some(ratio) => format!(" {ratio:.2} |"),
                None => " not measured |".to_owned(),
            };
            let row = format!(
                "| {} | {:.2} | {:.2} |{ratios} {:.2} |{}",
                series.name,
                self.unit.per(series.quantile(0.5)),
                self.unit.per(series.quantile(0.95)),
                self.unit.per(series.above(references[0])),
                earlier.map_or_else(String::new, before),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_what_it_was_in_an_earlier_run() {
        let series = |name: &str, time| Series { name: name.to_owned(), times: vec![time], failure: None };
        let table = |times: [f64; 2]| Table {
            title: "a table".to_owned(),
            note: String::new(),
            unit: Unit::Ms,
            references: vec![0],
            series: vec![series("floor", times[0]), series("ours", times[1])],
        };
        let earlier = json!({ "tables": [table([1.0, 3.0]).json()] }).to_string();
        let earlier = Earlier::parse(&earlier).expect("JSON");
        let text = table([10.0, 20.0]).markdown(Some(&earlier));
        assert!(text.contains("÷ floor before |") && text.contains("| 2.00 | 0.01 | 3.00 |"), "{text}");
        let mut other = table([1.0, 1.0]);
        other.series[1].name = "new".to_owned();
        assert!(other.markdown(Some(&earlier)).contains("| not measured |"));
        assert!(!other.markdown(None).contains("before"));
    }
}
