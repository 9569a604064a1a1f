//! `generate`: man pages and completions, from the definition of the command line.

use crate::arguments::{Arguments, Shell};
use crate::output;
use bailiwick_proto::Failure;
use bailiwick_types::ExitStatus;
use clap::CommandFactory;
use std::path::Path;

/// The JSON Schema of the output of `audit --json`.
pub(crate) const AUDIT_SCHEMA: &str = include_str!("../../../../docs/schema/audit.json");

/// Names for Bash: where there are none, the completions of the definition.
const BASH_NAMES: &str = r#"
_bailiwick_names() {
    local cur="${COMP_WORDS[COMP_CWORD]}" names
    # At an equals sign Bash begins a new word.
    if [[ $cur != -* && $cur != = && ${COMP_WORDS[COMP_CWORD-1]} != = ]]; then
        names=$("${COMP_WORDS[0]}" complete -- "${COMP_WORDS[@]:1:COMP_CWORD-1}" 2> /dev/null)
        if [[ -n $names ]]; then
            mapfile -t COMPREPLY < <(compgen -W "$names" -- "$cur")
            if [[ ${COMPREPLY[0]} == *= ]]; then compopt -o nospace; fi
            return
        fi
    fi
    _bailiwick "$@"
}
complete -F _bailiwick_names -o bashdefault -o default bailiwick
"#;
/// The same for zsh.
const ZSH_NAMES: &str = r#"_bailiwick() {
    local -a names
    if [[ ${words[CURRENT]} != -* ]]; then
        names=(${(f)"$(${words[1]} complete -- ${(@)words[2,CURRENT-1]} 2> /dev/null)"})
        if (( ${#names} )); then
            if [[ ${names[1]} == *= ]]; then compadd -S '' -a names; else compadd -a names; fi
            return
        fi
    fi
    _bailiwick_definition "$@"
}
"#;
/// The same for fish.
const FISH_NAMES: &str = r#"
function __bailiwick_names
    set -l words (commandline -opc)
    command $words[1] complete -- $words[2..-1] 2> /dev/null
end
complete -c bailiwick -n 'test (count (__bailiwick_names)) -gt 0' -f -a '(__bailiwick_names)'
for option in plan tenant unset
    complete -c bailiwick -n "test (commandline -opc)[-1] = --$option" -l $option -x -a '(__bailiwick_names)'
end
"#;

/// `bailiwick generate man`: writes `bailiwick.1` and a page for each command.
pub(crate) fn man(dir: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(Arguments::command(), dir))
        .map_err(|error| Failure::of(ExitStatus::Failed, format!("cannot write to \"{}\": {error}", dir.display())))
}

/// `bailiwick generate completions`.
pub(crate) fn completions(shell: Shell) -> Result<(), Failure> {
    output::print(&script(shell))
}

/// The completions of the definition, and names of tenants, plans and services, for which the program itself is asked.
fn script(shell: Shell) -> String {
    let of_definition = script_of_definition(shell);
    match shell {
        Shell::Bash => of_definition + BASH_NAMES,
        // The function of the definition gets another name, and ours calls it.
        Shell::Zsh => of_definition.replacen("_bailiwick() {", "_bailiwick_definition() {", 1).replacen(
            "if [ \"$funcstack[1]\" = \"_bailiwick\" ]; then",
            &format!("{ZSH_NAMES}\nif [ \"$funcstack[1]\" = \"_bailiwick\" ]; then"),
            1,
        ),
        Shell::Fish => of_definition + FISH_NAMES,
    }
}

fn script_of_definition(shell: Shell) -> String {
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
    use bailiwick_types::{
        AuditReport, FeatureReport, FeatureState, Finding, HostReport, LimitKey, LimitReport, LimitValue, ProbeReport,
        Severity, TenantReport, Verdict, WallReport,
    };
    use serde_json::Value;

    #[test]
    fn every_command_has_a_page() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let dir = temp.path().join("man1");
        man(&dir).expect("writes");
        let page = |name: &str| std::fs::read_to_string(dir.join(name)).expect(name);
        assert!(page("bailiwick.1").contains("Exit status:"));
        assert!(page("bailiwick-generate-man.1").contains("output"));
        // A hidden command is for a program, and not for people.
        for command in Arguments::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let about = command.get_about().expect("has help").to_string();
            let first = about.split_whitespace().next().expect("has words");
            assert!(page(&format!("bailiwick-{}.1", command.get_name())).contains(first));
        }
    }

    /// The package puts both kinds of pages into one tree, where a second page of the same name replaces the first.
    #[test]
    fn no_page_that_is_written_by_hand_has_the_name_of_a_generated_one() {
        let temp = tempfile::tempdir().expect("temporary directory");
        man(temp.path()).expect("writes");
        let by_hand = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs/man");
        for page in std::fs::read_dir(by_hand).expect("is there") {
            let name = page.expect("an entry").file_name();
            assert!(!temp.path().join(&name).exists(), "{name:?}");
        }
    }

    #[test]
    fn completions_include_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            for command in Arguments::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell:?} {}", command.get_name());
            }
        }
    }

    /// Checks a value against a schema. Supports the keywords that the schema above uses.
    fn check(schema: &Value, root: &Value, value: &Value, place: &str) {
        if let Some(reference) = schema["$ref"].as_str() {
            let name = reference.rsplit('/').next().expect("a name");
            return check(&root["$defs"][name], root, value, place);
        }
        if let Some(known) = schema["enum"].as_array() {
            assert!(known.contains(value), "{place}: {value}");
        }
        let kinds: Vec<&str> = match &schema["type"] {
            Value::String(kind) => vec![kind],
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let kind = match value {
            Value::Null => "null",
            Value::Object(_) => "object",
            Value::Array(_) => "array",
            Value::String(_) => "string",
            Value::Number(_) => "integer",
            Value::Bool(_) => "boolean",
        };
        assert!(kinds.is_empty() || kinds.contains(&kind), "{place}: {value} is no {kinds:?}");
        if let Value::Object(fields) = value {
            for (key, field) in fields {
                let property = &schema["properties"][key];
                assert!(property.is_object(), "{place}: \"{key}\" is not in the schema");
                check(property, root, field, &format!("{place}.{key}"));
            }
            for required in schema["required"].as_array().into_iter().flatten() {
                assert!(fields.contains_key(required.as_str().expect("a key")), "{place}: {required} is missing");
            }
        }
        for item in value.as_array().into_iter().flatten() {
            check(&schema["items"], root, item, &format!("{place}[]"));
        }
    }

    #[test]
    fn a_report_matches_the_schema() {
        let schema: Value = serde_json::from_str(AUDIT_SCHEMA).expect("JSON");
        let text = || "text".to_owned();
        let verdicts = [Verdict::Enforced, Verdict::Down, Verdict::Nominal, Verdict::Drift, Verdict::Breached];
        let limit = |number: Option<u64>, verdict| LimitReport {
            key: LimitKey::Memory,
            declared: LimitValue::Unlimited,
            enforced: number.map(LimitValue::from),
            used: number,
            peak: number,
            faults: number,
            verdict,
        };
        let finding =
            |severity| Finding { id: "BW001".to_owned(), severity, tenant: None, evidence: text(), remedy: text() };
        let tenants = verdicts.map(|verdict| TenantReport {
            name: "alice".parse().expect("a name"),
            verdict,
            walls: vec![WallReport { wall: text(), evidence: text(), verdict }],
            limits: vec![limit(None, verdict), limit(Some(7), verdict)],
            probes: vec![ProbeReport { attempt: text(), expected: text(), told: text(), verdict }],
            findings: [Severity::Notice, Severity::Warning, Severity::Critical].map(finding).into(),
        });
        let features = [FeatureState::Works, FeatureState::Limited, FeatureState::Missing].map(|state| FeatureReport {
            feature: text(),
            state,
            evidence: text(),
            remedy: text(),
        });
        let report =
            AuditReport { tenants: tenants.into(), host: HostReport { kernel: text(), features: features.into() } };
        check(&schema, &schema, &serde_json::to_value(&report).expect("JSON"), "$");
    }
}
