//! The completions of bash, zsh and fish offer the names of tenants, plans and services.

use bailiwick_tests::Host;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

fn host() -> Host {
    let host = Host::new();
    host.declare("alice", "web");
    host.declare("albert", "web");
    host.write(
        "etc/tenants.d/bob.toml",
        "plan = \"web\"\n[[service]]\nname = \"site\"\ncommand = [\"/bin/sleep\", \"9\"]\n",
    );
    host
}

/// The file of a shell's completions, made by the program as the package makes it.
fn script(host: &Host, shell: &str) -> PathBuf {
    let text = host.ok(&["generate", "completions", shell]);
    let name = if shell == "zsh" { "_bailiwick".to_owned() } else { format!("bailiwick.{shell}") };
    host.write(&format!("complete/{name}"), &text);
    host.path("complete").join(name)
}

/// Whether the machine has a shell. `tests/deps` installs all three.
fn has(shell: &str) -> bool {
    Command::new(shell).arg("-c").arg(":").stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn run(shell: &str, host: &Host, line: &str) -> String {
    let path = format!("{}:{}", bailiwick_tests::stage().display(), std::env::var("PATH").expect("PATH"));
    let home = host.path("home");
    fs::create_dir_all(&home).expect("mkdir");
    let mut command = Command::new("timeout");
    command.args(["120", shell]);
    if shell == "zsh" {
        command.arg("-f");
    }
    let output = command.arg("-c").arg(line).env("PATH", path).env("HOME", home).stdin(Stdio::null()).output();
    let output = output.expect("the shell runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{line}\n{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

const CASES: &[(&str, &[&str], &[&str])] = &[
    ("show al", &["alice", "albert"], &["bob"]),
    ("show --json b", &["bob"], &["alice"]),
    ("start alice b", &["bob"], &["alice"]),
    ("list --plan w", &["web"], &["alice"]),
    ("service restart bob s", &["site"], &["alice"]),
    ("logs bob s", &["site"], &["alice"]),
    ("sho", &["show"], &["alice"]),
];

#[test]
fn the_program_knows_what_stands_where() {
    let host = host();
    for (line, there, missing) in CASES {
        let mut words: Vec<&str> = line.split(' ').collect();
        let begun = words.pop().expect("a word");
        let names = host.ok(&[&["complete", "--"], words.as_slice()].concat());
        let offered: Vec<&str> = names.lines().filter(|name| name.starts_with(begun)).collect();
        assert!(missing.iter().all(|name| !offered.contains(name)), "{line}: {names}");
        assert!(there.iter().all(|name| *name == "show" || offered.contains(name)), "{line}: {names}");
    }
}

#[test]
fn bash_offers_names() {
    assert!(has("bash"), "install bash: tests/deps");
    let host = host();
    let script = script(&host, "bash");
    let config = host.path("etc");
    for (line, there, missing) in CASES {
        let line = format!("bailiwick --config {} {line}", config.display());
        // What readline does: it sets the words and calls the function.
        let words = line.split(' ').map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
        let program = format!(
            "set -e; source '{}'; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_LINE='{line}'; \
             COMP_POINT=${{#COMP_LINE}}; set +e; _bailiwick_names bailiwick \"${{COMP_WORDS[COMP_CWORD]}}\" \
             \"${{COMP_WORDS[COMP_CWORD-1]}}\" 2>/dev/null; printf '%s\\n' \"${{COMPREPLY[@]}}\"; exit 0",
            script.display()
        );
        let offered = run("bash", &host, &program);
        check(&line, &offered, there, missing);
    }
}

#[test]
fn fish_offers_names() {
    assert!(has("fish"), "install fish: tests/deps");
    let host = host();
    let script = script(&host, "fish");
    let config = host.path("etc");
    for (line, there, missing) in CASES {
        let line = format!("bailiwick --config {} {line}", config.display());
        let offered = run("fish", &host, &format!("source '{}'; complete -C '{line}'", script.display()));
        check(&line, &offered, there, missing);
    }
}

/// A line editor on a terminal of its own, because zsh completes nowhere else.
#[test]
fn zsh_offers_names() {
    assert!(has("zsh"), "install zsh: tests/deps");
    let host = host();
    script(&host, "zsh");
    let (config, folder) = (host.path("etc"), host.path("complete"));
    for (line, there, missing) in CASES {
        let line = format!("bailiwick --config {} {line}", config.display());
        // `zpty` is zsh's own terminal, on which the inner shell lists what it would offer. Without the first name this waits
        // until the time is over.
        let program = format!(
            r#"zmodload zsh/zpty
zpty inner 'zsh -f -i'
zpty -w inner 'PS1= PROMPT=; fpath=({folder} $fpath); autoload -Uz compinit; compinit -u -D; TERM=dumb; setopt no_list_beep'
zpty -w inner 'bindkey "^I" list-choices; unset ZLE_RPROMPT_INDENT; echo re''ady'
zpty -r inner text '*ready*'
zpty -w -n inner $'{line}\t'
zpty -r -m inner text '*{first}*'
zpty -w inner $'\x15echo do''ne'
zpty -r -m inner rest '*done*'
print -r -- "$text$rest"
zpty -d inner"#,
            folder = folder.display(),
            first = there[0],
        );
        let offered = run("zsh", &host, &program);
        check(&line, &offered.replace('\r', "\n"), there, missing);
    }
}

fn check(line: &str, offered: &str, there: &[&str], missing: &[&str]) {
    let words: Vec<&str> = offered.split_whitespace().collect();
    assert!(there.iter().all(|name| words.contains(name)), "{line}: {offered}");
    // A name that is in the line itself says nothing.
    let missing = missing.iter().filter(|name| !line.split(' ').any(|word| word == **name));
    for name in missing {
        assert!(!words.contains(name), "{line}: {offered}");
    }
}
