//! `generate`: man pages and completions, from the definition of the command line.

use crate::arguments::{Arguments, Shell};
use crate::output;
use bailiwick_proto::Failure;
use bailiwick_types::ExitStatus;
use clap::CommandFactory;
use std::path::Path;

/// `bailiwick generate man`: `bailiwick.1` and one page for each command.
pub(crate) fn man(dir: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(Arguments::command(), dir))
        .map_err(|error| Failure::of(ExitStatus::Failed, format!("cannot write to \"{}\": {error}", dir.display())))
}

/// `bailiwick generate completions`.
pub(crate) fn completions(shell: Shell) -> Result<(), Failure> {
    output::print(&script(shell))
}

fn script(shell: Shell) -> String {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "bailiwick", &mut script);
    String::from_utf8(script).expect("the help is UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let dir = temp.path().join("man1");
        man(&dir).expect("writes");
        let page = |name: &str| std::fs::read_to_string(dir.join(name)).expect(name);
        assert!(page("bailiwick.1").contains("Exit status:"));
        assert!(page("bailiwick-generate-man.1").contains("output"));
        for command in Arguments::command().get_subcommands() {
            let about = command.get_about().expect("has help").to_string();
            let first = about.split_whitespace().next().expect("has words");
            assert!(page(&format!("bailiwick-{}.1", command.get_name())).contains(first));
        }
    }

    #[test]
    fn completions_know_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            for command in Arguments::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell:?} {}", command.get_name());
            }
        }
    }
}
