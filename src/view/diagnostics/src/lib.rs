//! Floor 3: shows the problems of the operator's files, with the lines that hold them.
//!
//! This is a crate of its own, so that the programs that run as root do not link its dependencies.

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};
use bailiwick_policy::{Diagnostic, Severity, printable};

/// Renders diagnostics as plain text without colours. Each has its severity, its message, its place, the line with a mark below it, and its
/// hint.
///
/// ```
/// let reading = bailiwick_policy::parse(&[("bailiwick.toml".into(), "[reserve]\nmemroy = \"1G\"\n")]);
/// let text = bailiwick_diagnostics::render(&reading.diagnostics);
/// assert!(text.starts_with("error: unknown key \"memroy\"\n --> bailiwick.toml:2:1\n"), "{text}");
/// ```
#[must_use]
pub fn render(diagnostics: &[Diagnostic]) -> String {
    let renderer = Renderer::plain();
    let mut text = String::new();
    for diagnostic in diagnostics {
        let file = printable(&diagnostic.file);
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(&diagnostic.message);
        let mut group = match diagnostic.excerpt() {
            Some((line, mark)) => {
                let mark = AnnotationKind::Primary.span(mark.clone());
                title.element(Snippet::source(line).line_start(diagnostic.line).path(file).annotation(mark))
            }
            None => title.element(Origin::path(file).line(diagnostic.line).char_column(diagnostic.column)),
        };
        if let Some(hint) = &diagnostic.hint {
            group = group.element(Level::HELP.message(hint));
        }
        text.push_str(&renderer.render(&[group]));
        text.push_str("\n\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn shown(file: &str, text: &str) -> (Vec<Diagnostic>, String) {
        let diagnostics = bailiwick_policy::parse(&[(PathBuf::from(file), text)]).diagnostics;
        let text = render(&diagnostics);
        (diagnostics, text)
    }

    #[test]
    fn the_text_shows_the_place_of_the_diagnostic() {
        for text in ["\t\"ä\" = 1\r\n\t\"ü\" = 2\r\n", "x = 1", "[limits]\ncpu = \"", "plan = 3\r\n"] {
            let (diagnostics, text) = shown("bailiwick.toml", text);
            assert!(!diagnostics.is_empty());
            for diagnostic in diagnostics {
                let place = format!("bailiwick.toml:{}:{}\n", diagnostic.line, diagnostic.column);
                assert!(text.contains(&place) && text.contains('^'), "{place} {text}");
            }
        }
    }

    #[test]
    fn a_long_line_is_not_shown_but_its_column_is() {
        let line = format!("plan = \"{}\"; b", "x".repeat(100_000));
        let (diagnostics, text) = shown("bailiwick.toml", &line);
        assert!(diagnostics.iter().any(|diagnostic| diagnostic.column > 100_000), "{diagnostics:?}");
        for diagnostic in &diagnostics {
            assert!(text.contains(&format!("bailiwick.toml:1:{}", diagnostic.column)), "{text}");
        }
        assert!(text.len() < 1000 * diagnostics.len(), "{text}");
    }

    #[test]
    fn names_of_files_cannot_control_the_terminal() {
        let (diagnostics, text) = shown("tenants.d/a\u{1b}[31m.toml", "");
        assert!(!diagnostics.is_empty() && !text.contains('\u{1b}'), "{text:?}");
    }
}
