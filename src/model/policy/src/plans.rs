//! Reads `plans.d`: the plans, and what they inherit from each other.

use crate::diagnostic::{Diagnostic, Problem};
use crate::folder::{Folder, PLANS, file_name, names};
use crate::model::{Host, Plan, Settings};
use crate::reader::{Report, Section, Table, parsed};
use crate::source::Source;
use crate::store::Fallback;
use crate::suggest::nearest;
use crate::{mail, network, notices, services, settings, sleep, unserved};
use bailiwick_types::PlanName;
use std::collections::{BTreeMap, BTreeSet};
use toml::Spanned;

/// The most plans in one line of inheritance.
const MAX_DEPTH: usize = 16;

const TOP: Section = Section {
    title: "at the top of the file",
    keys: &[
        "plan",
        "image",
        "profile",
        "nesting",
        "doors",
        "suspended_doors",
        "inherit_services",
        "inherit_notices",
        "host_sockets",
        "limits",
        "sleep",
        "mail",
        "network",
        "service",
        "notice",
    ],
};
const SECTIONS: &[Section] = &[
    TOP,
    settings::LIMITS,
    sleep::SLEEP,
    mail::MAIL,
    services::SERVICE,
    services::SOCKET,
    services::STOP,
    services::LOG,
    services::LIMITS,
    network::NETWORK,
    network::ALLOW,
    network::PUBLISH,
    network::MONTH,
    notices::NOTICE,
];

/// The plans. Each is read when it is first needed, because the warden needs those of one tenant and not all.
#[derive(Debug)]
pub(crate) struct Plans<'f, F> {
    folder: Availability<'f, F>,
    /// The last good versions for plans with an error.
    fallback: &'f Fallback<'f>,
    /// The host that serves what the files declare. It is `None` for the copy of what is in force, whose words are not judged
    /// again.
    host: Option<&'f Host>,
    fallen_back: BTreeSet<PlanName>,
    read: BTreeMap<PlanName, Outcome>,
    diagnostics: Vec<Diagnostic>,
}

/// The result of reading plans.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The good plans that were read, and the last good versions of the others.
    pub(crate) good: BTreeMap<PlanName, Plan>,
    /// The names of those that are a last good version.
    pub(crate) fallen_back: BTreeSet<PlanName>,
    /// The problems of all plans that were read.
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// Whether the directory of the plans can be used.
#[derive(Debug)]
pub(crate) enum Availability<'f, F> {
    /// The directory can be read.
    Ready(&'f F),
    /// There is no directory, so there are no plans.
    Absent,
    /// The directory cannot be read, and this was reported. No plan may be called missing.
    Broken,
}

#[derive(Debug)]
enum Outcome {
    /// The plan, and the length of its line of inheritance.
    Good(Box<Plan>, usize),
    /// The plan, or one that it inherits from, has a problem that was reported.
    Bad,
    /// The plan has no file.
    Missing,
    /// The plan's parents are being read.
    InProgress,
}

/// The result of looking up a plan.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// The settings of the plan.
    Good(&'a Settings),
    /// The plan has a problem that was reported.
    Bad,
    /// The plan has no file. The problem is to be reported where the plan is named.
    Missing(Problem),
}

/// The file of a plan while the file of its parent is read.
#[derive(Debug)]
struct Draft {
    name: PlanName,
    source: Source,
    /// The problems that do not depend on the parent.
    diagnostics: Vec<Diagnostic>,
    /// The settings of the file; `None` when it is no TOML.
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
            declared = Some(settings::Declared::read(&mut report, &top, SECTIONS, None));
        }
        Self { name, diagnostics: report.finish(), source, declared, parent }
    }
}

impl<'f, F: Folder> Plans<'f, F> {
    pub(crate) fn new(folder: Availability<'f, F>, fallback: &'f Fallback<'f>, host: Option<&'f Host>) -> Self {
        Self { folder, fallback, host, fallen_back: BTreeSet::new(), read: BTreeMap::new(), diagnostics: Vec::new() }
    }

    /// The host that serves what the files declare.
    pub(crate) fn host(&self) -> Option<&'f Host> {
        self.host
    }

    /// Reads a plan and all plans that it inherits from.
    pub(crate) fn find(&mut self, name: &PlanName) -> Found<'_> {
        self.read_line(name);
        match &self.read[name] {
            Outcome::Good(plan, _) => Found::Good(&plan.settings),
            Outcome::Missing => Found::Missing(self.missing(name)),
            Outcome::Bad | Outcome::InProgress => Found::Bad,
        }
    }

    /// Reads every plan of the directory.
    pub(crate) fn find_all(&mut self) {
        let Availability::Ready(folder) = self.folder else { return };
        for name in names(folder, &mut self.diagnostics).unwrap_or_default() {
            self.read_line(&name);
        }
    }

    /// Returns the good plans that were read, and the problems of the others.
    pub(crate) fn finish(self) -> Finished {
        let good = self.read.into_iter().filter_map(|(name, outcome)| match outcome {
            Outcome::Good(plan, _) => Some((name, *plan)),
            _ => None,
        });
        Finished { good: good.collect(), fallen_back: self.fallen_back, diagnostics: self.diagnostics }
    }

    /// Reads up the line of inheritance, until a plan is known or has no parent. Then resolves down the line, each plan on top
    /// of its parent.
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

    /// Puts a plan on top of its parent, which was resolved before. `line` holds the plans that inherit from it.
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
        let plan = inherited.zip(declared).map(|((inherited, depth), declared)| {
            let settings = declared.apply(&mut report, inherited);
            if let Some(host) = self.host.filter(|_| diagnostics.is_empty() && report.is_clean()) {
                let of_parent = unserved::of_settings(inherited, host);
                for (place, problem) in unserved::of_settings(&settings, host) {
                    if !of_parent.contains(&(place.clone(), problem.clone())) {
                        report.error_at(&place, problem);
                    }
                }
            }
            (Plan { name: name.clone(), parent: parent.map(Spanned::into_inner), settings }, depth + 1)
        });
        let clean = diagnostics.is_empty() && report.is_clean();
        self.diagnostics.extend(diagnostics.into_iter().chain(report.finish()));
        match plan {
            Some((plan, depth)) if clean => Outcome::Good(Box::new(plan), depth),
            _ => self.instead(&name),
        }
    }

    /// The problem of a plan that does not exist.
    fn missing(&self, name: &PlanName) -> Problem {
        let problem = Problem::new(format!("there is no plan \"{name}\""));
        let known = match self.folder {
            // Reading all plans reports a file with a bad name.
            Availability::Ready(folder) => names::<_, PlanName>(folder, &mut Vec::new()).unwrap_or_default(),
            _ => Vec::new(),
        };
        match nearest(name.as_str(), known.iter().map(PlanName::as_str)) {
            Some(meant) => problem.hint(format!("did you mean \"{meant}\"?")),
            None => problem.hint(format!("its file would be {PLANS}/{name}.toml")),
        }
    }
}

/// The problem of a circle: `from` inherits from `start`, which inherits, over the plans of `line`, from `from`.
fn circle(start: &PlanName, from: &PlanName, line: &[Draft]) -> Problem {
    let names = line.iter().map(|draft| &draft.name).chain([from]).skip_while(|name| *name != start).chain([start]);
    let names: Vec<&str> = names.map(PlanName::as_str).collect();
    Problem::new(format!("the plans inherit from each other in a circle: {}", names.join(" -> ")))
        .hint("remove \"plan\" from one of them")
}

/// Writes a plan as a file with every setting. Reading it gives the same plan, whatever its parent says.
pub(crate) fn write(plan: &Plan) -> String {
    let (top, tables) = settings::write(&plan.settings);
    let parent = plan.parent.as_ref().map(|parent| format!("plan = \"{parent}\"\n")).unwrap_or_default();
    format!("{parent}{top}{tables}")
}
