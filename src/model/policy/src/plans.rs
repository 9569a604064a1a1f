//! `plans.d`: plans and what they inherit from each other.

use crate::diagnostic::{Diagnostic, Problem};
use crate::folder::{Folder, PLANS, file_name, names};
use crate::model::{Plan, Settings};
use crate::reader::{Report, Section, Table, parsed};
use crate::settings;
use crate::source::Source;
use crate::store::Fallback;
use crate::suggest::nearest;
use bailiwick_types::PlanName;
use std::collections::{BTreeMap, BTreeSet};
use toml::Spanned;

/// How many plans may stand in one line of inheritance.
const MAX_DEPTH: usize = 16;

const TOP: Section = Section {
    title: "at the top of the file",
    keys: &["plan", "image", "profile", "doors", "suspended_doors", "limits"],
};
const SECTIONS: &[Section] = &[TOP, settings::LIMITS];

/// The plans, each read when it is first asked for: the warden needs one tenant's, not all.
#[derive(Debug)]
pub(crate) struct Plans<'f, F> {
    folder: Availability<'f, F>,
    /// What to go on with in the place of one that has an error.
    fallback: &'f Fallback<'f>,
    fallen_back: BTreeSet<PlanName>,
    read: BTreeMap<PlanName, Outcome>,
    diagnostics: Vec<Diagnostic>,
}

/// What was read.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The good plans that were read, and the last good of the others.
    pub(crate) good: BTreeMap<PlanName, Plan>,
    /// Which of them are the last good.
    pub(crate) fallen_back: BTreeSet<PlanName>,
    /// The problems.
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// Whether the directory of the plans can be used.
#[derive(Debug)]
pub(crate) enum Availability<'f, F> {
    /// It is there.
    Ready(&'f F),
    /// There is none, so there are no plans.
    Absent,
    /// It cannot be used, and that was reported: no plan can be said to be missing.
    Broken,
}

#[derive(Debug)]
enum Outcome {
    /// The plan, and how many stand in its line of inheritance.
    Good(Box<Plan>, usize),
    /// It, or a plan that it inherits from, has a problem that was reported.
    Bad,
    /// It has no file.
    Missing,
    /// Its parents are being read.
    InProgress,
}

/// What became of a plan that was asked for.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// Here it is.
    Good(&'a Settings),
    /// It has a problem that was reported.
    Bad,
    /// It has no file; the problem to report where it is named.
    Missing(Problem),
}

/// A plan's file while the file of its parent is read.
#[derive(Debug)]
struct Draft {
    name: PlanName,
    source: Source,
    /// The problems that the parent has no part in.
    diagnostics: Vec<Diagnostic>,
    /// `None` when the file is no TOML.
    declared: Option<settings::Declared>,
    parent: Option<Spanned<PlanName>>,
}

impl Draft {
    fn read(name: PlanName, source: Source) -> Self {
        let mut report = Report::new(&source);
        let (mut parent, mut declared) = (None, None);
        if let Some(entries) = report.parse() {
            let top = Table::new(&mut report, &entries, &TOP, SECTIONS);
            parent = top.read(&mut report, "plan", parsed);
            declared = Some(settings::Declared::read(&mut report, &top, SECTIONS));
        }
        Self { name, diagnostics: report.finish(), source, declared, parent }
    }
}

impl<'f, F: Folder> Plans<'f, F> {
    pub(crate) fn new(folder: Availability<'f, F>, fallback: &'f Fallback<'f>) -> Self {
        Self { folder, fallback, fallen_back: BTreeSet::new(), read: BTreeMap::new(), diagnostics: Vec::new() }
    }

    /// Reads the plan and all that it inherits from.
    pub(crate) fn find(&mut self, name: &PlanName) -> Found<'_> {
        self.read_line(name);
        match &self.read[name] {
            Outcome::Good(plan, _) => Found::Good(&plan.settings),
            Outcome::Missing => Found::Missing(self.missing(name)),
            Outcome::Bad | Outcome::InProgress => Found::Bad,
        }
    }

    /// Reads every plan that there is.
    pub(crate) fn find_all(&mut self) {
        let Availability::Ready(folder) = self.folder else { return };
        for name in names(folder, &mut self.diagnostics).unwrap_or_default() {
            self.read_line(&name);
        }
    }

    /// The good plans that were read, and the problems of the others.
    pub(crate) fn finish(self) -> Finished {
        let good = self.read.into_iter().filter_map(|(name, outcome)| match outcome {
            Outcome::Good(plan, _) => Some((name, *plan)),
            _ => None,
        });
        Finished { good: good.collect(), fallen_back: self.fallen_back, diagnostics: self.diagnostics }
    }

    /// Up the line of inheritance until a plan is known or has no parent, then down again, each on top of its parent.
    fn read_line(&mut self, name: &PlanName) {
        let mut line: Vec<Draft> = Vec::new();
        let mut next = Some(name.clone());
        while let Some(name) = next.take().filter(|name| !self.read.contains_key(name)) {
            let file = match self.folder {
                Availability::Ready(folder) => folder.file(&file_name(&name)),
                Availability::Absent => Ok(None),
                Availability::Broken => {
                    let outcome = self.instead(&name);
                    self.read.insert(name, outcome);
                    continue;
                }
            };
            let outcome = match file {
                Ok(Some(source)) => {
                    let draft = Draft::read(name.clone(), source);
                    next = draft.parent.as_ref().map(|parent| parent.get_ref().clone());
                    line.push(draft);
                    Outcome::InProgress
                }
                Ok(None) => Outcome::Missing,
                Err(problems) => {
                    self.diagnostics.extend(problems);
                    self.instead(&name)
                }
            };
            self.read.insert(name, outcome);
        }
        while let Some(draft) = line.pop() {
            let name = draft.name.clone();
            let outcome = self.resolve(draft, &line);
            self.read.insert(name, outcome);
        }
    }

    /// What stands for a plan that has a problem: as it last was, if that is known.
    fn instead(&mut self, name: &PlanName) -> Outcome {
        match self.fallback.plan(name) {
            Some(plan) => {
                self.fallen_back.insert(name.clone());
                Outcome::Good(Box::new(plan), 1)
            }
            None => Outcome::Bad,
        }
    }

    /// A plan on top of its parent, which was read before it; `line` is who inherits from it.
    fn resolve(&mut self, draft: Draft, line: &[Draft]) -> Outcome {
        let Draft { name, source, diagnostics, declared, parent } = draft;
        let mut report = Report::new(&source);
        let defaults = settings::defaults();
        let inherited = match &parent {
            None => Some((&defaults, 0)),
            Some(parent) => match &self.read[parent.get_ref()] {
                Outcome::Good(plan, depth) if *depth < MAX_DEPTH => Some((&plan.settings, *depth)),
                Outcome::Good(..) => {
                    report.error(parent.span(), || {
                        Problem::new(format!("more than {MAX_DEPTH} plans inherit from each other in one line"))
                            .hint("inherit from a plan that is nearer to the start of the line")
                    });
                    None
                }
                Outcome::InProgress => {
                    report.error(parent.span(), || circle(parent.get_ref(), &name, line));
                    None
                }
                Outcome::Missing => {
                    report.error(parent.span(), || self.missing(parent.get_ref()));
                    None
                }
                Outcome::Bad => None,
            },
        };
        let plan = inherited.zip(declared).map(|((settings, depth), declared)| {
            let settings = declared.apply(&mut report, settings);
            (Plan { name: name.clone(), parent: parent.map(Spanned::into_inner), settings }, depth + 1)
        });
        let clean = diagnostics.is_empty() && report.is_clean();
        self.diagnostics.extend(diagnostics.into_iter().chain(report.finish()));
        match plan {
            Some((plan, depth)) if clean => Outcome::Good(Box::new(plan), depth),
            _ => self.instead(&name),
        }
    }

    /// There is no such plan.
    fn missing(&self, name: &PlanName) -> Problem {
        let problem = Problem::new(format!("there is no plan \"{name}\""));
        let known = match self.folder {
            // A file with a bad name is reported by whoever reads all plans.
            Availability::Ready(folder) => names::<_, PlanName>(folder, &mut Vec::new()).unwrap_or_default(),
            _ => Vec::new(),
        };
        match nearest(name.as_str(), known.iter().map(PlanName::as_str)) {
            Some(meant) => problem.hint(format!("did you mean \"{meant}\"?")),
            None => problem.hint(format!("its file would be {PLANS}/{name}.toml")),
        }
    }
}

/// `from` inherits from `start`, which inherits from ... which inherits from `from`.
fn circle(start: &PlanName, from: &PlanName, line: &[Draft]) -> Problem {
    let names = line.iter().map(|draft| &draft.name).chain([from]).skip_while(|name| *name != start).chain([start]);
    let names: Vec<&str> = names.map(PlanName::as_str).collect();
    Problem::new(format!("the plans inherit from each other in a circle: {}", names.join(" -> ")))
        .hint("remove \"plan\" from one of them")
}

/// A plan's file that reads to the same plan, whatever its parent says.
pub(crate) fn write(plan: &Plan) -> String {
    let (top, limits) = settings::write(&plan.settings);
    let parent = plan.parent.as_ref().map(|parent| format!("plan = \"{parent}\"\n")).unwrap_or_default();
    format!("{parent}{top}{limits}")
}
