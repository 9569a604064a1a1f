//! Floor 3: the texts of notices. A template is a file: a line with the subject, an empty line, and the text. `{name}` stands for a
//! value. The templates are embedded, and `templates.d/LANGUAGE/NAME.txt` below the configuration directory replaces one.
//!
//! Danger: what is written becomes a header and a message that goes to others. A value with the end of a line would become another
//! header, so [`Template::fill`] leaves no control character in a subject. The files must be root's, as the policy's are.

use bailiwick_sys::file::{self, FileType};
use bailiwick_types::NoticeLanguage;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The directory of the operator's templates, below the configuration directory.
pub const TEMPLATES: &str = "templates.d";
/// The most bytes of a template.
const MAX_FILE: usize = 16 << 10;
/// The most characters of a subject.
const MAX_SUBJECT: usize = 200;
const SUBJECT: &str = "Subject: ";

/// What a template is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Occasion {
    /// A share of a limit is used.
    Near,
    /// A soft limit is passed.
    Soft,
    /// A grace period will be over soon.
    Grace,
    /// A limit is reached.
    Hard,
    /// What was told is over.
    Cleared,
    /// Many notices in one message.
    Digest,
    /// An operator tests the way of notices.
    Test,
}

/// The names in templates about a limit.
const OF_LIMITS: &[&str] = &["tenant", "host", "time", "resource", "used", "limit", "percent"];
const OF_GRACE: &[&str] = &["tenant", "host", "time", "resource", "used", "limit", "percent", "left"];
const OF_DIGESTS: &[&str] = &["host", "time", "count", "lines"];
const OF_TESTS: &[&str] = &["tenant", "host", "time"];

impl Occasion {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Near, Self::Soft, Self::Grace, Self::Hard, Self::Cleared, Self::Digest, Self::Test];

    /// The name of the template's file, without its ending.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Near => "near",
            Self::Soft => "soft",
            Self::Grace => "grace",
            Self::Hard => "hard",
            Self::Cleared => "cleared",
            Self::Digest => "digest",
            Self::Test => "test",
        }
    }

    /// The names that its template may have in braces.
    #[must_use]
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Near | Self::Hard | Self::Cleared => OF_LIMITS,
            Self::Soft | Self::Grace => OF_GRACE,
            Self::Digest => OF_DIGESTS,
            Self::Test => OF_TESTS,
        }
    }

    fn embedded(self, language: NoticeLanguage) -> &'static str {
        use NoticeLanguage::{De, En};
        match (language, self) {
            (En, Self::Near) => include_str!("templates/en/near.txt"),
            (En, Self::Soft) => include_str!("templates/en/soft.txt"),
            (En, Self::Grace) => include_str!("templates/en/grace.txt"),
            (En, Self::Hard) => include_str!("templates/en/hard.txt"),
            (En, Self::Cleared) => include_str!("templates/en/cleared.txt"),
            (En, Self::Digest) => include_str!("templates/en/digest.txt"),
            (En, Self::Test) => include_str!("templates/en/test.txt"),
            (De, Self::Near) => include_str!("templates/de/near.txt"),
            (De, Self::Soft) => include_str!("templates/de/soft.txt"),
            (De, Self::Grace) => include_str!("templates/de/grace.txt"),
            (De, Self::Hard) => include_str!("templates/de/hard.txt"),
            (De, Self::Cleared) => include_str!("templates/de/cleared.txt"),
            (De, Self::Digest) => include_str!("templates/de/digest.txt"),
            (De, Self::Test) => include_str!("templates/de/test.txt"),
        }
    }
}

/// A problem of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateProblem {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

/// The values of a template, by name.
pub type Values = BTreeMap<&'static str, String>;

/// A template without an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    subject: String,
    text: String,
}

impl Template {
    /// Reads a template. An error is its line, what is wrong, and what to do.
    fn parse(text: &str, occasion: Occasion) -> Result<Self, (usize, String, String)> {
        let example =
            "write \"Subject: ...\" into the first line, leave the second one empty, and write the text below";
        let (subject, rest) = text.split_once('\n').unwrap_or((text, ""));
        let subject = subject.trim_end_matches('\r').strip_prefix(SUBJECT).map(str::trim);
        let Some(subject) = subject.filter(|subject| !subject.is_empty()) else {
            return Err((1, "the template has no subject".to_owned(), example.to_owned()));
        };
        let (second, body) = rest.split_once('\n').unwrap_or((rest, ""));
        if !second.trim().is_empty() {
            return Err((2, "the second line is not empty".to_owned(), example.to_owned()));
        }
        if body.trim().is_empty() {
            return Err((3, "the template has no text".to_owned(), example.to_owned()));
        }
        for (number, line) in text.lines().enumerate() {
            if let Some(found) = line.chars().find(|c| c.is_control() && *c != '\t') {
                return Err((number + 1, format!("the character {found:?} in a template"), "remove it".to_owned()));
            }
            for name in names(line) {
                if !occasion.names().contains(&name) {
                    let known =
                        occasion.names().iter().map(|name| format!("{{{name}}}")).collect::<Vec<_>>().join(", ");
                    let message = format!("{{{name}}} stands for nothing in \"{}\"", occasion.word());
                    return Err((number + 1, message, format!("there are {known}")));
                }
            }
        }
        Ok(Self { subject: subject.to_owned(), text: body.to_owned() })
    }

    /// The subject and the text with these values. A name without a value stays empty.
    #[must_use]
    pub fn fill(&self, values: &Values) -> (String, String) {
        let subject: String =
            fill(&self.subject, values).chars().filter(|c| !c.is_control()).take(MAX_SUBJECT).collect();
        (subject, fill(&self.text, values))
    }
}

/// The names in braces of a text.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let inside = text.split('{').skip(1).filter_map(|rest| rest.split_once('}').map(|(name, _)| name));
    inside.filter(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
}

/// Fills a text in one pass, so that a value with braces is not filled again.
fn fill(text: &str, values: &Values) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('{') {
        out.push_str(before);
        let name = behind.split_once('}').filter(|(name, _)| values.contains_key(name));
        match name {
            Some((name, after)) => {
                out.push_str(&values[name]);
                rest = after;
            }
            None => {
                out.push('{');
                rest = behind;
            }
        }
    }
    out.push_str(rest);
    out
}

/// The templates of every language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Templates(BTreeMap<(NoticeLanguage, Occasion), Template>);

impl Templates {
    /// The embedded ones.
    ///
    /// # Panics
    /// Never: a test reads them all.
    #[must_use]
    pub fn embedded() -> Self {
        let one = |language: NoticeLanguage, occasion: Occasion| {
            let template = Template::parse(occasion.embedded(language), occasion).expect("a test reads it");
            ((language, occasion), template)
        };
        let all = NoticeLanguage::ALL
            .into_iter()
            .flat_map(|language| Occasion::ALL.into_iter().map(move |occasion| one(language, occasion)));
        Self(all.collect())
    }

    /// The embedded ones, and in their place those of the operator that have no problem.
    #[must_use]
    pub fn read(config: &Path) -> (Self, Vec<TemplateProblem>) {
        let (mut all, mut problems) = (Self::embedded(), Vec::new());
        let dir = config.join(TEMPLATES);
        if !dir.exists() {
            return (all, problems);
        }
        problems.extend(strangers(&dir));
        for language in NoticeLanguage::ALL {
            for occasion in Occasion::ALL {
                let path = dir.join(language.word()).join(format!("{}.txt", occasion.word()));
                match read_one(&path, occasion) {
                    Ok(None) => {}
                    Ok(Some(template)) => {
                        all.0.insert((language, occasion), template);
                    }
                    Err((line, message, hint)) => problems.push(TemplateProblem { file: path, line, message, hint }),
                }
            }
        }
        (all, problems)
    }

    /// The template for an occasion.
    ///
    /// # Panics
    /// Never: there is one for each.
    #[must_use]
    pub fn get(&self, language: NoticeLanguage, occasion: Occasion) -> &Template {
        &self.0[&(language, occasion)]
    }
}

/// Reads a template of the operator; `None` when there is none.
fn read_one(path: &Path, occasion: Occasion) -> Result<Option<Template>, (usize, String, String)> {
    let unreadable =
        |error: std::io::Error| (1, format!("cannot be read: {error}"), "make it a readable file".to_owned());
    let (dir, name) = (path.parent().unwrap_or(Path::new(".")), path.file_name().unwrap_or_default());
    let opened = file::open_dir(dir).and_then(|dir| file::open_file_at(&dir, name));
    let fd = match opened {
        Ok(fd) => fd,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let metadata = file::metadata(&fd).map_err(unreadable)?;
    if metadata.kind != FileType::RegularFile {
        return Err((1, "this is no file".to_owned(), "write the template into a file".to_owned()));
    }
    if metadata.uid != 0 || metadata.mode & 0o022 != 0 {
        let hint = format!("chown root:root {0} && chmod go-w {0}", path.display());
        return Err((1, "others than root can change what is written in the operator's name".to_owned(), hint));
    }
    let bytes = file::read_bounded(fd, MAX_FILE + 1).map_err(unreadable)?;
    if bytes.len() > MAX_FILE {
        return Err((1, format!("a template has at most {MAX_FILE} bytes"), "write less".to_owned()));
    }
    let text =
        String::from_utf8(bytes).map_err(|_| (1, "this is no text in UTF-8".to_owned(), "convert it".to_owned()))?;
    Template::parse(&text, occasion).map(Some)
}

/// Files and directories that no notice uses.
fn strangers(dir: &Path) -> Vec<TemplateProblem> {
    let names = |dir: &Path| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        names
    };
    let problem = |file: PathBuf, hint: String| TemplateProblem {
        file,
        line: 1,
        message: "no notice uses this".to_owned(),
        hint,
    };
    let mut found = Vec::new();
    for name in names(dir) {
        if !NoticeLanguage::ALL.iter().any(|language| language.word() == name) {
            let known = NoticeLanguage::ALL.map(NoticeLanguage::word).join(" and ");
            found.push(problem(dir.join(&name), format!("the languages are {known}")));
            continue;
        }
        for file in names(&dir.join(&name)) {
            let is_known = |occasion: &Occasion| file.strip_suffix(".txt") == Some(occasion.word());
            if !Occasion::ALL.iter().any(is_known) {
                let known = Occasion::ALL.map(|occasion| format!("{}.txt", occasion.word())).join(", ");
                found.push(problem(dir.join(&name).join(&file), format!("there are {known}")));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn values(of: &[(&'static str, &str)]) -> Values {
        of.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
    }

    #[test]
    fn every_embedded_template_is_valid_and_uses_names_of_its_own() {
        let all = Templates::embedded();
        for language in NoticeLanguage::ALL {
            for occasion in Occasion::ALL {
                let filled = occasion.names().iter().map(|name| (*name, format!("<{name}>"))).collect();
                let (subject, text) = all.get(language, occasion).fill(&filled);
                assert!(!subject.contains('{') && !text.contains('{'), "{language} {occasion:?}: {subject}\n{text}");
                assert!(text.lines().all(|line| line.chars().count() <= 100), "{language} {occasion:?}");
            }
        }
    }

    #[test]
    fn values_are_filled_once_and_a_subject_stays_one_line() {
        let template =
            Template::parse("Subject: {tenant} {x }{\n\na {tenant} {} b{limit}\n", Occasion::Near).expect("valid");
        let (subject, text) = template.fill(&values(&[("tenant", "a\r\nBcc: b@x{limit}"), ("limit", "{tenant}")]));
        assert_eq!(subject, "aBcc: b@x{limit} {x }{");
        assert_eq!(text, "a a\r\nBcc: b@x{limit} {} b{tenant}\n");
        let long = template.fill(&values(&[("tenant", &"ü".repeat(1000))]));
        assert_eq!(long.0.chars().count(), MAX_SUBJECT);
    }

    #[test]
    fn a_wrong_template_says_where_and_why() {
        for (text, line, why) in [
            ("", 1, "no subject"),
            ("Subject:\n\na", 1, "no subject"),
            ("Hello\n\na", 1, "no subject"),
            ("Subject: a\nb\n\nc", 2, "second line"),
            ("Subject: a\n\n \n", 3, "no text"),
            ("Subject: a\n\nb\n{unknown}", 4, "{unknown} stands for nothing in \"near\""),
            ("Subject: {lines}\n\nb", 1, "{lines} stands for nothing"),
            ("Subject: a\n\nb\u{1b}[2J", 3, "character '\\u{1b}'"),
        ] {
            let error = Template::parse(text, Occasion::Near).expect_err(text);
            assert!(error.0 == line && error.1.contains(why), "{text:?}: {error:?}");
        }
    }

    #[test]
    fn a_file_replaces_one_template_and_a_wrong_one_replaces_none() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let dir = temp.path().join(TEMPLATES);
        assert_eq!(Templates::read(temp.path()), (Templates::embedded(), Vec::new()));
        fs::create_dir_all(dir.join("de")).expect("makes");
        fs::write(dir.join("de/near.txt"), "Subject: Hallo {tenant}\n\nText {percent}\n").expect("writes");
        fs::write(dir.join("de/hard.txt"), "Subject: a\n\n{nobody}\n").expect("writes");
        fs::write(dir.join("de/other.txt"), "x").expect("writes");
        fs::write(dir.join("de/.other.txt.swp"), "x").expect("writes");
        fs::create_dir(dir.join("fr")).expect("makes");
        let (all, problems) = Templates::read(temp.path());
        let filled =
            all.get(NoticeLanguage::De, Occasion::Near).fill(&values(&[("tenant", "alice"), ("percent", "80%")]));
        assert_eq!(filled, ("Hallo alice".to_owned(), "Text 80%\n".to_owned()));
        let embedded = Templates::embedded();
        for (language, occasion) in [(NoticeLanguage::De, Occasion::Hard), (NoticeLanguage::En, Occasion::Near)] {
            assert_eq!(all.get(language, occasion), embedded.get(language, occasion));
        }
        let shown: Vec<(String, &str)> = problems
            .iter()
            .map(|found| (found.file.strip_prefix(&dir).expect("below").display().to_string(), found.message.as_str()))
            .collect();
        let golden = [
            ("de/other.txt".to_owned(), "no notice uses this"),
            ("fr".to_owned(), "no notice uses this"),
            ("de/hard.txt".to_owned(), "{nobody} stands for nothing in \"hard\""),
        ];
        assert_eq!(shown, golden);
        fs::set_permissions(dir.join("de/near.txt"), fs::Permissions::from_mode(0o666)).expect("chmod");
        fs::write(dir.join("de/soft.txt"), vec![b'a'; MAX_FILE + 1]).expect("writes");
        std::os::unix::fs::symlink("/etc/passwd", dir.join("de/grace.txt")).expect("links");
        let (all, problems) = Templates::read(temp.path());
        assert_eq!((all, problems.len()), (embedded, 6), "{problems:?}");
    }
}
