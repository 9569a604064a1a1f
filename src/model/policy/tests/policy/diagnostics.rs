//! The messages for the operator.

use crate::directory::Directory;

/// The complaints about one tenant's file, each without the file's own path.
fn tenant(content: &str) -> Vec<String> {
    let directory = Directory::with(&[("plans.d/small.toml", ""), ("tenants.d/alice.toml", content)]);
    let complaints = directory.complaints();
    assert_eq!(directory.read().invalid.len(), usize::from(!complaints.is_empty()), "{complaints:?}");
    complaints.into_iter().map(|line| line.replace("CONFIG/tenants.d/alice.toml:", "")).collect()
}

/// The complaints about `bailiwick.toml`.
fn host(content: &str) -> Vec<String> {
    let directory = Directory::with(&[("bailiwick.toml", content)]);
    let complaints = directory.complaints();
    assert_eq!(directory.read().policy.is_none(), !complaints.is_empty(), "{complaints:?}");
    complaints.into_iter().map(|line| line.replace("CONFIG/bailiwick.toml:", "")).collect()
}

#[test]
fn message_place_line_mark_and_hint() {
    let directory = Directory::with(&[
        ("plans.d/small.toml", "[limits]\nmemory = \"1G\"\n"),
        ("tenants.d/alice.toml", "plan = \"samll\"\n\n[limits]\n\tmemroy = \"2G\"  # zwei für alice\ncpu = 2\n"),
        ("tenants.d/bob.toml", "plan = \"small\"\nstate = \"susp"),
        ("tenants.d/carol.toml", ""),
        ("tenants.d/Dave.toml", ""),
    ]);
    assert_eq!(
        directory.rendered(),
        r#"error: the file's name is no name: a name starts with a lower-case letter or "_", not with 'D'
--> CONFIG/tenants.d/Dave.toml:1:1
 = help: rename or remove the file

error: there is no plan "samll"
 --> CONFIG/tenants.d/alice.toml:1:8
  |
1 | plan = "samll"
  |        ^^^^^^^
  |
  = help: did you mean "small"?

error: unknown key "memroy"
 --> CONFIG/tenants.d/alice.toml:4:2
  |
4 |     memroy = "2G"  # zwei für alice
  |     ^^^^^^
  |
  = help: did you mean "memory"?

error: expected a share of one core such as "150%", found a whole number
 --> CONFIG/tenants.d/alice.toml:5:7
  |
5 | cpu = 2
  |       ^
  |
  = help: write it in quotes, with its unit

error: not valid TOML: invalid basic string, expected `"`
 --> CONFIG/tenants.d/bob.toml:2:14
  |
2 | state = "susp
  |              ^

error: no plan: every tenant has one
 --> CONFIG/tenants.d/carol.toml:1:1
  |
1 |
  | ^
  |
  = help: start the file with a line such as plan = "small"

"#
    );
}

#[test]
fn all_problems_of_a_file_come_in_one_run_and_in_its_order() {
    let content = r#"
package = "small"
suspend_reason = "unpaid"
image = "../x"
profile = "root"
doors = ["ssh", "telnet", "ssh"]
cpu = "100%"
[login]
user = "root"
ssh_keys = [7, "ssh-dss AAAA", "ssh-ed25519 AAAA"]
[limits]
cpu = "0%"
memory = "15M"
memory_high = "1Gb"
swap = 0
tasks = 7
io_read = "1K"
iops_read = "9"
io_weight = 10001
disk = "2G:1G"
disk_grace = "1 fortnight"
inodes = "0:200k"
sessions = 0
open_files = "unlimited"
tmp = "1K"
shm = ["64M"]
state = "active"
[[service]]
name = "web"
command = ["nginx"]
[[service]]
name = "web"
command = []
comand = 1
"#;
    let expected = [
        r#"1:1: no plan: every tenant has one (start the file with a line such as plan = "small")"#,
        r#"2:1: unknown key "package" (use "plan")"#,
        r#"3:18: a reason to suspend, but the tenant is not suspended (add state = "suspended", or remove this line)"#,
        r#"4:9: a name starts with a lower-case letter or "_", not with '.'"#,
        r#"5:11: expected one of web, shell, system"#,
        r#"6:17: expected one of exec, ssh, sftp, ftp, cron, socket"#,
        r#"6:27: "ssh" is in the list twice (take one of them out)"#,
        r#"7:1: unknown key "cpu" ("cpu" belongs below [limits])"#,
        r#"9:8: this name is reserved (choose another name)"#,
        r#"10:13: expected a text in quotes, found a whole number"#,
        r#"10:16: the line does not start with a known key type (without options before it; the types are ssh-ed25519, ssh-rsa, ecdsa-sha2-nistp256, ecdsa-sha2-nistp384, ecdsa-sha2-nistp521, sk-ssh-ed25519@openssh.com, sk-ecdsa-sha2-nistp256@openssh.com)"#,
        r#"10:32: the key is damaged (copy the whole line of the .pub file)"#,
        r#"12:7: the value is below 1% (a share of one core, from 1%, or "unlimited")"#,
        r#"13:10: the value is below 16M (from 16M, which a jail needs for its init and a shell, or "unlimited")"#,
        r#"14:15: unknown unit "Gb"; use K, M, G or T (1024-based)"#,
        r#"15:8: expected a size such as "512M", found a whole number (write it in quotes, with its unit)"#,
        r#"16:9: the value is below 8 (from 8, which a jail needs for its init and one session, or "unlimited")"#,
        r#"17:11: the value is below 64K (bytes a second, from 64K, or "unlimited")"#,
        r#"18:13: the value is below 10 (operations a second, from 10, or "unlimited")"#,
        r#"19:13: the value is above 10000 (from 1 to 10000; 100 is the norm)"#,
        r#"20:8: the soft limit is above the hard one"#,
        r#"21:14: unknown unit "fortnight"; use s, m, h, d or w"#,
        r#"22:10: the value is below 100 (from 100, for the soft limit too, or "unlimited")"#,
        r#"23:12: the value is below 1 (from 1 to 65536, or "unlimited"; to close every way in write doors = [])"#,
        r#"24:14: "unlimited" is not possible here (from 64, which a shell needs, to 1048576, which is the most that the kernel allows)"#,
        r#"25:7: the value is below 64K (from 64K to 1024T)"#,
        r#"26:7: expected a size such as "512M", found a list"#,
        r#"27:1: unknown key "state" ("state" belongs at the top of the file, above the first [table])"#,
        r#"30:12: the program "nginx" is not an absolute path (write where it is inside the jail, such as "/usr/sbin/nginx")"#,
        r#"32:8: there are two services "web" (give one of them another name, or take it out)"#,
        r#"33:11: the command is empty (a program and its arguments: ["/usr/sbin/nginx", "-g"])"#,
        r#"34:1: unknown key "comand" (did you mean "command"?)"#,
    ];
    let complaints = tenant(content);
    for (found, expected) in complaints.iter().zip(expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(complaints.len(), expected.len(), "{complaints:#?}");
}

#[test]
fn doors_that_cannot_stay_open() {
    let remedy = "(\"sftp\" and \"ftp\" can, for reading; [] closes all)";
    let top = "plan = \"small\"\n";
    for word in ["exec", "ssh", "cron", "socket", "telnet"] {
        let expected = format!("2:28: no door {word:?} can stay open while a tenant is suspended {remedy}");
        assert_eq!(tenant(&format!("{top}suspended_doors = [\"sftp\", \"{word}\"]\n")), [expected]);
    }
    assert_eq!(tenant(&format!("{top}suspended_doors = [\"ftp\", \"sftp\"]\n")), [""; 0]);
    assert_eq!(
        tenant(&format!("{top}suspended_doors = [\"ftp\", \"ftp\"]\n")),
        ["2:27: \"ftp\" is in the list twice (take one of them out)"]
    );
    assert_eq!(
        tenant(&format!("{top}suspended_doors = \"sftp\"\n")),
        ["2:19: expected a list in square brackets, found a text in quotes (write suspended_doors = [\"sftp\"])"]
    );
    let misplaced = tenant(&format!("{top}[limits]\nsuspended_doors = []\n"));
    assert!(misplaced[0].contains("belongs at the top of the file"), "{misplaced:?}");
    let plan = Directory::with(&[("plans.d/small.toml", "suspended_doors = [\"ssh\"]")]);
    assert!(
        plan.complaints()[0].starts_with("CONFIG/plans.d/small.toml:1:20: no door \"ssh\""),
        "{:?}",
        plan.complaints()
    );
}

#[test]
fn limits_that_contradict_each_other() {
    let top = "plan = \"small\"\n[limits]\n";
    for (limits, complaints) in [
        ("memory = \"2G\"\nmemory_high = \"2G\"", &[][..]),
        ("memory = \"unlimited\"\nmemory_high = \"2G\"", &[]),
        (
            "memory_high = \"3G\"\nmemory = \"2G\"",
            &["3:15: \"memory_high\" (3G) is above \"memory\" (2G), so it would never be reached"],
        ),
        (
            "memory_high = \"3G\"",
            &["3:15: \"memory_high\" (3G) is above \"memory\" (1G), so it would never be reached \
               (\"memory\" is inherited; set it in this file too)"],
        ),
        (
            "cpu = \"50%\"\ncpu_burst = \"50.5%\"",
            &["4:13: \"cpu_burst\" (50.5%) is above \"cpu\" (50%), which the kernel refuses"],
        ),
        // In place of a value that cannot be read there is an inherited one, which must not be compared.
        ("memory = \"x\"\nmemory_high = \"3G\"", &["3:10: expected a number with a unit, such as \"512M\""]),
    ] {
        assert_eq!(tenant(&format!("{top}{limits}")), complaints, "{limits}");
    }
    let directory = Directory::with(&[
        ("plans.d/p.toml", "[limits]\nmemory_high = \"900M\""),
        ("tenants.d/alice.toml", "plan = \"p\"\nlimits = { memory = \"64M\" }"),
    ]);
    assert_eq!(
        directory.complaints(),
        ["CONFIG/tenants.d/alice.toml:2:21: \"memory_high\" (900M) is above \"memory\" (64M), so it would never be \
         reached (\"memory_high\" is inherited; set it in this file too)"]
    );
}

#[test]
fn wrong_shapes() {
    for (content, complaint) in [
        ("plan = 1", "1:8: expected a text in quotes, found a whole number"),
        ("plan = \"nope\"", "1:8: there is no plan \"nope\" (its file would be plans.d/nope.toml)"),
        ("plan = \"../x\"", "1:8: a name starts with a lower-case letter or \"_\", not with '.'"),
        ("plan = \"small\"\nstate = \"Active\"", "2:9: unknown state \"Active\" (\"active\" or \"suspended\")"),
        ("plan = \"small\"\nstate = false", "2:9: expected a text in quotes, found true or false"),
        (
            "plan = \"small\"\nlimits = \"none\"",
            "2:10: expected a table (what is below [limits]), found a text in quotes (write limits = { cpu = \"none\" })",
        ),
        (
            "plan = \"small\"\ndoors = \"ssh  sftp\"",
            "2:9: expected a list in square brackets, found a text in quotes (write doors = [\"ssh\", \"sftp\"])",
        ),
        (
            "plan = \"small\"\nsleep = \"15m\"",
            "2:9: expected a table (what is below [sleep]), found a text in quotes (write sleep = { after = \"15m\" })",
        ),
        (
            "plan = \"small\"\n[sleep]",
            "2:1: nothing is below [sleep] (below [sleep] there are: after, freeze_after; or remove it)",
        ),
        (
            "plan = \"small\"\n[mail]",
            "2:1: nothing is below [mail] (below [mail] there are: per_hour, recipients, size; or remove it)",
        ),
        (
            "plan = \"small\"\n[mail]\nrecipients = 3",
            "3:14: a limit of mail, but the tenant may send none (add a number such as per_hour = 100, or remove [mail])",
        ),
        (
            "plan = \"small\"\ndoors = \"ssh\"",
            "2:9: expected a list in square brackets, found a text in quotes (write doors = [\"ssh\"])",
        ),
        (
            "plan = \"small\"\n[service]",
            "2:1: expected a list of tables, found a table (write [[service]], in two pairs of brackets)",
        ),
        (
            "plan = \"small\"\nservice = [1.5]",
            "2:12: expected a table, found a number with a fraction (write [[service]], and its keys below)",
        ),
        (
            "plan = \"small\"\n[[service]]\nname = \"a\"",
            "2:1: the service has no \"command\" and no \"files\" (write a program and its arguments, such as command = [\"/usr/bin/node\", \"app.js\"])",
        ),
        (
            "plan = \"small\"\n[[service]]\ncommand = [\"/a\"]",
            "2:1: the service has no \"name\" (write a short word, such as name = \"main\")",
        ),
        (
            "plan = \"small\"\n[[timer]]\nname = \"a\"\ncommand = [\"/a\"]",
            "2:1: the timer has no \"schedule\" (write when it runs, such as schedule = \"daily\")",
        ),
        (
            "plan = \"small\"\n[[timer]]\nname = \"crontab-1\"\ncommand = [\"/a\"]\nschedule = \"daily\"",
            "3:8: a timer must not be called \"crontab-1\" (names that begin so are those of lines of the tenant's own crontab)",
        ),
        (
            "plan = \"small\"\n[[timer]]\nname = \"a\"\ncommand = [\"/a\"]\nschedule = \"25:00\"",
            "5:12: the hour \"25\" is none: it is no number in its range",
        ),
        (
            "plan = \"small\"\n[[timer]]\nname = \"a\"\ncommand = [\"/a\"]\nschedule = \"often\"",
            "5:12: the day of the week \"often\" is none: it is no number in its range",
        ),
        (
            "plan = \"small\"\n[[ftp]]\nname = \"a\"",
            "2:1: the ftp login has no \"password\" (`bailiwick password` makes the line)",
        ),
        (
            "plan = \"small\"\n[[ftp]]\nname = \"a\"\npassword = \"hunter2\"",
            "4:12: this is no hash of crypt(5) by yescrypt, bcrypt, SHA-512 or SHA-256 (`bailiwick password` makes one; a password itself must never stand here)",
        ),
        (
            "plan = \"small\"\n[[service]]\nname = \"a\"\ncommand = [\"/a\", \"\\u0000\"]",
            "4:18: an argument must not hold a NUL character",
        ),
        (
            "plan = \"small\"\n[limits]\ntasks = \"100\"",
            "3:9: expected a whole number, found a text in quotes (write it without quotes)",
        ),
        ("plan = \"small\"\n[limits]\ntasks = -1", "3:9: a negative number is not possible here"),
        ("plan = \"small\"\n[limits]\ntasks = 1e3", "3:9: expected a whole number, found a number with a fraction"),
        ("plan = \"small\"\n[limits]\ntasks = 99999999999999999999", "3:9: the value is too large"),
        (
            "plan = \"small\"\n[limits]\nmemory = \"2048T\"",
            "3:10: the value is above 1024T (from 16M, which a jail needs for its init and a shell, or \"unlimited\")",
        ),
        ("plan = \"small\"\nplan = \"small\"", "2:1: not valid TOML: duplicate key"),
        (
            "state = \"suspended\"\nsuspend_reason = \"a\\u001b[31m\"\nplan = \"small\"",
            "2:18: a line must not hold the control character '\\u{1b}'",
        ),
    ] {
        assert_eq!(tenant(content), [complaint], "{content}");
    }
    let long = format!("plan = \"{}\"", "x".repeat(300));
    assert_eq!(tenant(&long), ["1:8: a name has at most 32 bytes, this one has 300"]);
}

/// The complaints about a tenant with one service, from line 2 on, and more lines below its name and its command.
fn service(more: &str) -> Vec<String> {
    tenant(&format!("plan = \"small\"\n[[service]]\nname = \"php\"\ncommand = [\"/bin/php\"]\n{more}"))
}

#[test]
fn a_good_service_and_a_good_sleep() {
    let good = r#"
enabled = true
user = "alice"
directory = "/home/alice"
env = { APP_ENV = "prod", "x.y" = "" }
restart = "on-failure"
stop = { signal = "QUIT", within = "5m" }
ready = "connect"
log = { size = "4K", keep = 0 }
limits = { memory = "256M", tasks = 20, cpu = "50%" }
[[service.socket]]
name = "web"
pass = "relay"
to = "[::1]:3000"
backlog = 4096
entries = 100_000
[[service.socket]]
name = "fpm"
pass = "fpm"
to = "/run/php.sock"
[[service.socket]]
name = "plain"
[[service]]
name = "root"
files = "/home/alice/www"
user = "root"
after = ["php"]
[[service.socket]]
name = "static"
[sleep]
after = "15m"
freeze_after = "2m"
"#;
    let door = "plan = \"small\"\ndoors = [\"socket\"]\n[[service]]\nname = \"php\"\ncommand = [\"/bin/php\"]\n";
    assert_eq!(tenant(&format!("{door}{good}")), [""; 0]);
}

#[test]
fn a_service_that_cannot_be() {
    let relay = "[[service.socket]]\nname = \"a\"\npass = \"relay\"\n";
    for (more, complaints) in [
        (
            "files = \"/www\"",
            &[
                "5:9: a service has \"command\" or \"files\", not both (Bailiwick's own server serves \"files\"; write two services)",
            ][..],
        ),
        ("enabled = \"no\"", &["5:11: expected true or false, found a text in quotes"]),
        (
            "user = \"bob\"",
            &["5:8: a service cannot run as \"bob\" (\"alice\" (the login user, which is the default) or \"root\")"],
        ),
        ("directory = \"www\"", &["5:13: the path \"www\" is not absolute (write where it is inside the jail)"]),
        ("directory = \"/\\u0000\"", &["5:13: a path must not hold a NUL character"]),
        ("env = [\"A=b\"]", &["5:7: expected a table such as { APP_ENV = \"prod\" }, found a list"]),
        (
            "[service.env]\n\"\" = \"\"\n\"A=b\" = \"\"\nA = \"\\u0000\"\nN = 3000\nPORT = \"80\"\nLISTEN_FDS = \"1\"",
            &[
                "6:1: the name of a variable must not be empty",
                "7:1: the name of a variable must not hold '='",
                "8:5: a variable must not hold a NUL character",
                "9:5: expected a text in quotes, found a whole number (every variable is a text: write it in quotes)",
                "10:1: Bailiwick sets PORT itself (remove it)",
                "11:1: Bailiwick sets LISTEN_FDS itself (remove it)",
            ],
        ),
        ("restart = \"yes\"", &["5:11: expected one of always, on-failure, never"]),
        (
            "stop = \"QUIT\"",
            &[
                "5:8: expected a table (what is in \"stop\"), found a text in quotes (write stop = { signal = \"QUIT\" })",
            ],
        ),
        (
            "stop = { signal = \"SIGQUIT\" }",
            &["5:19: expected one of TERM, QUIT, INT, HUP, USR1, USR2, WINCH, KILL (write \"QUIT\")"],
        ),
        ("stop = { signal = \"STOP\" }", &["5:19: expected one of TERM, QUIT, INT, HUP, USR1, USR2, WINCH, KILL"]),
        ("stop = { within = \"6m\" }", &["5:19: the value is above 5m (from 1s to 5m)"]),
        (
            "stop = { within = 10 }",
            &[
                "5:19: expected a length of time such as \"7d\", found a whole number (write it in quotes, with its unit)",
            ],
        ),
        ("ready = \"yes\"", &["5:9: expected one of none, notify, connect"]),
        (
            "ready = \"connect\"",
            &[
                "5:9: ready = \"connect\" needs a socket with pass = \"relay\" (there is no address to connect to; write \"none\" or \"notify\")",
            ],
        ),
        (
            "log = { size = \"2G\", keep = 21 }",
            &[
                "5:16: the value is above 1G (from 4K to 1G)",
                "5:29: the value is above 20 (from 0 to 20 full files beside the current one)",
            ],
        ),
        (
            "limits = { memory = \"unlimited\" }",
            &["5:21: \"unlimited\" is not possible here (from 1M; without it only the tenant's own limit counts)"],
        ),
        (
            "limits = { tasks = 0 }",
            &["5:20: the value is below 1 (from 1; without it only the tenant's own limit counts)"],
        ),
        ("limits = { disk = \"1G\" }", &["5:12: unknown key \"disk\" (\"disk\" belongs below [limits])"]),
        ("after = [\"db\"]", &["5:10: there is no service \"db\" (a service comes after others of the same tenant)"]),
        (
            "after = [\"php\"]",
            &["5:10: the services come after each other in a circle: php -> php (remove one of them from \"after\")"],
        ),
        (
            "after = [\"b\"]\n[[service]]\nname = \"b\"\ncommand = [\"/b\"]\nafter = [\"c\"]\n[[service]]\nname = \"c\"\ncommand = [\"/c\"]\nafter = [\"php\", \"bb\"]",
            &[
                "5:10: the services come after each other in a circle: php -> b -> c -> php (remove one of them from \"after\")",
                "13:17: there is no service \"bb\" (did you mean \"b\"?)",
            ],
        ),
        ("ExecStart = \"/bin/x\"", &["5:1: unknown key \"ExecStart\" (use \"command\")"]),
        ("Restart = \"always\"", &["5:1: unknown key \"Restart\" (use \"restart\")"]),
        ("WorkingDirectory = \"/\"", &["5:1: unknown key \"WorkingDirectory\" (use \"directory\")"]),
        (
            "[service.socket]\nname = \"a\"",
            &["5:1: expected a list of tables, found a table (write [[service.socket]], in two pairs of brackets)"],
        ),
        (
            "[[service.socket]]\npass = \"fd\"",
            &["5:1: the socket has no \"name\" (write a short word, such as name = \"main\")"],
        ),
        (
            "[[service.socket]]\nname = \"../a\"",
            &["6:8: a name starts with a lower-case letter or \"_\", not with '.'"],
        ),
        (
            "[[service.socket]]\nname = \"a\"\n[[service.socket]]\nname = \"a\"",
            &["8:8: there are two sockets \"a\" (give one of them another name, or take it out)"],
        ),
        (
            "[[service.socket]]\nname = \"a\"\npass = \"tcp\"",
            &[
                "7:8: unknown pass \"tcp\" (\"fd\" (the service inherits the listening socket), \"fpm\" (PHP-FPM inherits it), or \"relay\" (the service listens on an address inside))",
            ],
        ),
        (
            "[[service.socket]]\nname = \"a\"\nto = \"127.0.0.1:80\"",
            &[
                "7:6: with pass = \"fd\" there is no use for \"to\" (the service inherits the listening socket; remove \"to\", or write pass = \"relay\")",
            ],
        ),
        (
            relay,
            &[
                "5:1: the socket has no \"to\", and pass = \"relay\" (the address inside that the service listens on: to = \"127.0.0.1:3000\")",
            ],
        ),
        (
            "[[service.socket]]\nname = \"a\"\npass = \"fpm\"",
            &[
                "5:1: the socket has no \"to\", and pass = \"fpm\" (the value of `listen` in PHP-FPM's configuration: to = \"/run/php.sock\")",
            ],
        ),
        (
            "[[service.socket]]\nname = \"a\"\npass = \"fpm\"\nto = \"/a=b\"",
            &["8:6: the path must not hold '=' (FPM_SOCKETS has no such path)"],
        ),
        (
            &format!("{relay}to = 3000"),
            &[
                "8:6: expected an address in quotes, found a whole number (write an address and a port, such as \"127.0.0.1:3000\" or \"[::1]:3000\")",
            ],
        ),
        (
            &format!("{relay}to = \"localhost:3000\""),
            &[
                "8:6: \"localhost:3000\" is no address with a port (write an address and a port, such as \"127.0.0.1:3000\" or \"[::1]:3000\")",
            ],
        ),
        (
            &format!("{relay}to = \"10.0.0.1:3000\""),
            &[
                "8:6: \"10.0.0.1:3000\" is no loopback address (the relay connects inside the jail: write 127.0.0.1 or [::1])",
            ],
        ),
        (
            &format!("{relay}to = \"[::1%3]:3000\""),
            &[
                "8:6: \"[::1%3]:3000\" is no loopback address (the relay connects inside the jail: write 127.0.0.1 or [::1])",
            ],
        ),
        (
            &format!("{relay}to = \"127.0.0.1:0\""),
            &[
                "8:6: nothing listens on port 0 (write an address and a port, such as \"127.0.0.1:3000\" or \"[::1]:3000\")",
            ],
        ),
        (
            &format!("{relay}to = \"127.0.0.1:1\"\nbacklog = 4097\nentries = 0"),
            &[
                "9:11: the value is above 4096 (from 1 to 4096; 128 is the norm)",
                "10:11: the value is below 1 (from 1 to 100000; leave it out for no limit of its own)",
            ],
        ),
        (
            "[[service]]\nname = \"php\"\ncommand = [\"/a\"]",
            &["6:8: there are two services \"php\" (give one of them another name, or take it out)"],
        ),
        (
            "[[service]]\nname = \"w\"\nfiles = \"../www\"",
            &["7:9: \"../www\" is no plain path (write it from the login user's home on, such as \"www/blog\")"],
        ),
        (
            "[[service]]\nname = \"w\"\nfiles = \"/www\"",
            &["5:1: a service with \"files\" has exactly one socket (write one [[service.socket]] below it)"],
        ),
        (
            "[[service]]\nname = \"w\"\nfiles = \"/www\"\n[[service.socket]]\nname = \"a\"\npass = \"fpm\"\nto = \"/a\"",
            &[
                "10:8: a service with \"files\" cannot have pass = \"fpm\" (remove it: Bailiwick's own server inherits the listening socket)",
            ],
        ),
        (
            "[[service]]\nname = \"w\"\nfiles = \"/www\"\nready = \"notify\"\n[[service.socket]]\nname = \"a\"",
            &[
                "8:9: a service with \"files\" cannot have ready = \"notify\" (remove it: Bailiwick's own server is ready at once)",
            ],
        ),
        (
            "[[service]]\nname = \"old\"\nenabled = false",
            &["6:8: the plan has no service \"old\" to take away (remove this [[service]])"],
        ),
        // A service that has problems is still there for those that come after it.
        (
            "[[service]]\nname = \"b\"\nafter = [\"d\"]\ncommand = [\"/b\"]\n[[service]]\nname = \"d\"",
            &[
                "9:1: the service has no \"command\" and no \"files\" (write a program and its arguments, such as command = [\"/usr/bin/node\", \"app.js\"])",
            ],
        ),
        ("[sleep]\nafter = \"1s\"", &["6:9: the value is below 1m (from 1m to 30d, or \"never\")"]),
        (
            "[mail]\nper_hour = 10001\nrecipients = 0\nsize = \"1K\"",
            &[
                "6:12: 10001 messages in an hour (write a number from 0 to 10000)",
                "7:14: 0 recipients of one message (write a number from 1 to 1000)",
                "8:8: the value is below 64K (from 64K to 100M)",
            ],
        ),
        (
            "[mail]\nper_hour = -1\nrecipients = 1.5\nsize = -1",
            &[
                "6:12: a negative number is not possible here (write a number from 0 to 10000)",
                "7:14: expected a whole number, found a number with a fraction (write a number from 1 to 1000)",
                "8:8: expected a size such as \"512M\", found a whole number (write it in quotes, with its unit)",
            ],
        ),
        (
            "[mail]\nper_hour = 99999999999999999999\nrecipients = \"5\"",
            &[
                "6:12: the value is too large (write a number from 0 to 10000)",
                "7:14: expected a whole number, found a text in quotes (write it without quotes)",
            ],
        ),
        // Nothing says how many, so this would be no mail.
        (
            "[mail]\nrecipients = 5",
            &[
                "6:14: a limit of mail, but the tenant may send none (add a number such as per_hour = 100, or remove [mail])",
            ],
        ),
        (
            "[[mail]]\nper_hour = 5",
            &["5:1: expected a table (what is below [mail]), found a list (write [mail], and its keys below)"],
        ),
        (
            "[sleep]\nafter = \"31d\"\nfreeze_after = \"1s\"",
            &[
                "6:9: the value is above 30d (from 1m to 30d, or \"never\")",
                "7:16: the value is below 10s (from 10s, less than \"after\", or \"never\")",
            ],
        ),
        (
            "[sleep]\nafter = \"1h\"\nfreeze_after = \"1h\"",
            &["7:16: \"freeze_after\" (1h) is not less than \"after\" (1h), so nothing would be frozen"],
        ),
        (
            "[sleep]\nfreeze_after = \"1h\"",
            &[
                "6:16: \"freeze_after\", but the tenant never sleeps (add a time such as after = \"15m\", or remove this line)",
            ],
        ),
    ] {
        assert_eq!(service(more), complaints, "{more}");
    }
}

#[test]
fn too_many_services_sockets_and_variables() {
    let services = |from: usize, to: usize| -> String {
        (from..to).map(|n| format!("[[service]]\nname = \"s{n}\"\ncommand = [\"/s\"]\n")).collect()
    };
    assert_eq!(tenant(&format!("plan = \"small\"\n{}", services(0, 32))), [""; 0]);
    let too_many = "more than 32 services, those of the plan included (let one service start several programs)";
    assert_eq!(tenant(&format!("plan = \"small\"\n{}", services(0, 33))), [format!("2:1: {too_many}")]);
    let directory = Directory::with(&[
        ("plans.d/p.toml", &services(0, 20)),
        ("tenants.d/alice.toml", &format!("plan = \"p\"\n{}", services(10, 33))),
    ]);
    assert_eq!(directory.complaints(), [format!("CONFIG/tenants.d/alice.toml:2:1: {too_many}")]);

    let sockets: String = (0..9).map(|n| format!("[[service.socket]]\nname = \"s{n}\"\n")).collect();
    assert_eq!(service(&sockets), ["5:1: more than 8 sockets of one service"]);
    let env = format!("env = {{ A = \"{}\" }}", "x".repeat(32 << 10));
    assert_eq!(service(&env), ["5:7: the variables are longer than 32768 bytes (write them into a file inside)"]);
}

#[test]
fn a_plan_does_not_know_the_login_user() {
    let plan = "[[service]]\nname = \"php\"\ncommand = [\"/bin/php\"]\nuser = \"alice\"";
    let directory = Directory::with(&[("plans.d/small.toml", plan)]);
    assert_eq!(
        directory.complaints(),
        ["CONFIG/plans.d/small.toml:4:8: a plan's service cannot run as \"alice\" \
         (\"root\"; without this line it runs as the tenant's login user)"]
    );
}

#[test]
fn names_of_files() {
    let directory = Directory::with(&[
        ("tenants.d/root.toml", ""),
        ("tenants.d/a b.toml", ""),
        ("plans.d/unlimited.toml", ""),
        (&format!("tenants.d/{}.toml", "x".repeat(200)), ""),
    ]);
    let complaints: Vec<String> = directory
        .complaints()
        .into_iter()
        .map(|line| line.rsplit_once(" (").expect("a hint").0.split_once(":1:1: ").expect("a place").1.to_owned())
        .collect();
    assert_eq!(
        complaints,
        [
            "the file's name is no name: this name is reserved",
            "the file's name is no name: a name holds lower-case letters, digits, \"_\" and \"-\" only, not ' '",
            "the file's name is no name: this name is reserved",
            "the file's name is no name: a name has at most 32 bytes, this one has 200",
        ]
    );
}

#[test]
fn bailiwick_toml() {
    assert_eq!(host("user = \"12345\"\nadmins = []\nrequire = []\nids = {}\nruntime_dir = \"/run/ä b\""), [""; 0]);
    for (content, complaint) in [
        ("state_dir = \"var\"", "1:13: the path \"var\" is not absolute (a path starts with \"/\")"),
        ("state_dir = \"/var/../etc\"", "1:13: the path \"/var/../etc\" holds \"..\" (write the path without it)"),
        ("state_dir = \"/\"", "1:13: the root directory cannot be used (give it a directory of its own)"),
        ("state_dir = \"/./\"", "1:13: the root directory cannot be used (give it a directory of its own)"),
        ("state_dir = \"/a//b/\"", "1:13: the path \"/a//b/\" is not in its plain form (write \"/a/b\")"),
        ("state_dir = \"/a\\nb\"", "1:13: a line must not hold the control character '\\n'"),
        (
            "state_dir = \"/run/bailiwick/state\"",
            "1:13: state_dir \"/run/bailiwick/state\" and runtime_dir \"/run/bailiwick\" are one inside the other \
             (one is kept over a restart of the machine, the other is not: choose two separate directories)",
        ),
        (
            "state_dir = \"/a\"\nruntime_dir = \"/a\"",
            "2:15: state_dir \"/a\" and runtime_dir \"/a\" are one inside the other \
             (one is kept over a restart of the machine, the other is not: choose two separate directories)",
        ),
        ("ids = { first = -1 }", "1:17: a negative number is not possible here"),
        ("ids = { first = 4294967296 }", "1:17: the value is too large"),
        ("ids = { frist = 100000 }", "1:9: unknown key \"frist\" (did you mean \"first\"?)"),
        (
            "[ids]\nfirst = 0x5",
            "2:9: the first id must be at least 165536, not 5: the 65536 below it are tenants' host users, and those below 100000 are the host's",
        ),
        (
            "require = [\"ram\"]",
            "1:12: no such resource; one of cpu, memory, swap, tasks, io, disk, inodes, sessions, open_files",
        ),
        ("require = [\"cpu\", \"cpu\"]", "1:19: \"cpu\" is in the list twice (take one of them out)"),
        ("admins = [\"group:a\", \"a\", \"group:a\"]", "1:27: \"group:a\" is in the list twice (take one of them out)"),
        (
            "admins = [\"user:a\"]",
            "1:11: the name of a user or a group must not hold ':' (write \"name\" for a user or \"group:name\" for a group)",
        ),
        ("observers = [\"a\", \"group:a\", \"a\"]", "1:30: \"a\" is in the list twice (take one of them out)"),
        (
            "observers = [\"\"]",
            "1:14: the name of a user or a group must not be empty (write \"name\" for a user or \"group:name\" for a group)",
        ),
        (
            "metrics = { tenants = \"some\" }",
            "1:23: \"some\" does not say how much is told of tenants; one of none, core, all",
        ),
        ("metrics = { cache = \"0s\" }", "1:21: the value is below 1s (from 1s to 10m)"),
        ("[metrics]\ncache = \"11m\"", "2:9: the value is above 10m (from 1s to 10m)"),
        ("[metrics]\ncash = \"1m\"", "2:1: unknown key \"cash\" (in \"metrics\" there are: tenants, cache)"),
        ("metrics = {}", "1:11: nothing is in \"metrics\" (in \"metrics\" there are: tenants, cache; or remove it)"),
        (
            "notices = { user = \"root\" }",
            "1:20: root must not deliver notices (give it a user of its own, such as \"bailiwick-notify\")",
        ),
        (
            "user = \"bailiwick-notify\"",
            "1:8: notices must not be delivered by \"bailiwick-notify\", the user of bailiwickd (give it a user of its own, such as \"bailiwick-notify\")",
        ),
        ("notices = { users = \"a\" }", "1:13: unknown key \"users\" (did you mean \"user\"?)"),
        ("user = \"root\"", "1:8: bailiwickd must not run as root (give it a user of its own, such as \"bailiwick\")"),
        ("user = \"00\"", "1:8: bailiwickd must not run as root (give it a user of its own, such as \"bailiwick\")"),
        ("web = { group = \"root\" }", "1:17: the web server's group must not be root's (write \"www-data\")"),
        (
            "web = { group = \"bailiwick-tenants\" }",
            "1:17: \"bailiwick-tenants\" is the group of all tenants' host users (login_group) (each tenant could connect to the sockets of all others; write \"www-data\")",
        ),
        (
            "login_group = \"g\"\nweb = { group = \"g\" }",
            "2:17: \"g\" is the group of all tenants' host users (login_group) (each tenant could connect to the sockets of all others; write \"www-data\")",
        ),
        (
            "web = \"www-data\"",
            "1:7: expected a table (what is in \"web\"), found a text in quotes (write web = { group = \"www-data\" })",
        ),
        ("web = {}", "1:7: nothing is in \"web\" (in \"web\" there is only \"group\"; or remove it)"),
        ("[web]\nuser = \"x\"", "2:1: unknown key \"user\" (in \"web\" there is only \"group\")"),
        (
            "events = { keep = \"10m\", most = 5000 }",
            "1:19: 10m is no time to keep events (write a time from 1h to 400d)",
        ),
        (
            "events = { keep = 30 }",
            "1:19: expected a time such as \"30d\", found a whole number (write it in quotes, with its unit)",
        ),
        ("events = { most = 999 }", "1:19: 999 events (write a number from 1000 to 1000000)"),
        ("events = { max = 5000 }", "1:12: unknown key \"max\" (in \"events\" there are: keep, most)"),
        ("user = \"4294967295\"", "1:8: no user can have the number 4294967295"),
        ("mail = { command = \"sendmail\" }", "1:20: the path \"sendmail\" is not absolute (a path starts with \"/\")"),
        (
            "mail = { command = \"/usr/sbin/sendmail -t\" }",
            "1:20: \"/usr/sbin/sendmail -t\" is a program with arguments (write the program alone, such as \"/usr/sbin/sendmail\": its arguments are always the same)",
        ),
        (
            "mail = \"/usr/sbin/sendmail\"",
            "1:8: expected a table (what is in \"mail\"), found a text in quotes (write mail = { command = \"/usr/sbin/sendmail\" })",
        ),
        (
            "mail = true",
            "1:8: expected a table (what is in \"mail\"), found true or false (write mail = { command = ... })",
        ),
        (
            "mail = { domain = \"a.bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\" }",
            "1:19: \"a.bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\" is no domain (write one such as \"example.org\")",
        ),
        ("mail = { domain = \"a b\" }", "1:19: \"a b\" is no domain (write one such as \"example.org\")"),
        ("mail = { domain = \"-a.org\" }", "1:19: \"-a.org\" is no domain (write one such as \"example.org\")"),
        ("mail = { from = \"x\" }", "1:10: unknown key \"from\" (in \"mail\" there are: command, domain)"),
        (
            "[[host_socket]]\nname = \"db\"",
            "1:1: the host socket has no \"path\" (write where it is on the host, such as path = \"/run/mysqld/mysqld.sock\")",
        ),
        (
            "host_socket = \"/run/db/s\"",
            "1:15: expected a list of tables, found a text in quotes (write [[host_socket]], in two pairs of brackets)",
        ),
        (
            "[[host_socket]]\nname = \"db\"\npath = \"/run/db.sock\"",
            "3:8: \"/run/db.sock\" is in a directory of the whole host \
             (have the program make its socket in a directory of its own, such as /run/mysqld)",
        ),
        (
            "[[host_socket]]\nname = \"db\"\npath = \"/run/bailiwick/warden.sock\"",
            "3:8: \"/run/bailiwick/warden.sock\" is a socket of Bailiwick (no tenant may use one)",
        ),
        (
            "[[host_socket]]\nname = \"db\"\npath = \"/var/run/bailiwick/lent/alice/s\"",
            "3:8: \"/var/run/bailiwick/lent/alice/s\" is a socket of Bailiwick (no tenant may use one)",
        ),
        (
            "[[host_socket]]\nname = \"bus\"\npath = \"/var/run/dbus/system_bus_socket\"",
            "3:8: \"/var/run/dbus/system_bus_socket\" is the host's own (no tenant may use what manages the host)",
        ),
        (
            "[[host_socket]]\nname = \"db\"\npath = \"run/db/s\"",
            "3:8: the path \"run/db/s\" is not absolute (a path starts with \"/\")",
        ),
        (
            "[[host_socket]]\nname = \"db\"\npath = \"/run/db/s\"\nconnections = 0",
            "4:15: 0 connections of one tenant (write a number from 1 to 1000)",
        ),
        (
            "[[host_socket]]\nname = \"db\"\npath = \"/run/db/s\"\n[[host_socket]]\nname = \"db\"\npath = \"/run/x/s\"",
            "5:8: there are two host sockets \"db\" (give one of them another name, or take it out)",
        ),
        (
            "[[host_socket]]\nname = \"db\"\npath = \"/run/db/s\"\nbacklog = 1",
            "4:1: unknown key \"backlog\" (below [[host_socket]] there are: name, path, connections)",
        ),
        ("[[host_socket]]\nnam = \"db\"\npath = \"/run/db/s\"", "2:1: unknown key \"nam\" (did you mean \"name\"?)"),
    ] {
        assert_eq!(host(content), [complaint], "{content}");
    }
    let socket = |index: usize| format!("[[host_socket]]\nname = \"s{index}\"\npath = \"/run/db/s{index}\"\n");
    let many: String = (0..33).map(socket).collect();
    assert_eq!(host(&many), ["1:1: more than 32 sockets of the host (take out those that nobody uses)"]);
    let long = format!("[[host_socket]]\nname = \"db\"\npath = \"/run/db/{}\"", "x".repeat(65));
    assert_eq!(
        host(&long),
        [
            "3:8: the name of the socket's file is longer than 64 bytes (have the program that makes it give it a shorter one)"
        ]
    );
}

#[test]
fn a_notice_that_tells_nobody_of_nothing() {
    let rule = |resource: &str, more: &str| format!("[[notice]]\nresource = \"{resource}\"\n{more}\n");
    for (content, complaint) in [
        ("[[notice]]\nresource = \"tasks\"\n".to_owned(), "the notice has no \"at\" (write when somebody is told"),
        (rule("cpu", "at = []"), "\"cpu\" is nothing that notices are about; one of disk, inodes, memory"),
        (rule("tasks", "at = [\"80\"]\nto = [\"admin\"]"), "\"80\" is no threshold such as \"80%\""),
        (rule("tasks", "at = [\"80%\", \"80%\"]\nto = [\"admin\"]"), "\"80%\" is in the list twice"),
        (rule("tasks", "at = [\"soft\"]\nto = [\"admin\"]"), "\"tasks\" has no soft limit"),
        (rule("network", "at = [\"hard\"]\nto = [\"admin\"]"), "nobody would be told at \"hard\" (write \"100%\""),
        (rule("tasks", "at = [\"80%\"]"), "the notice has no \"to\" (write to = [\"tenant\"]"),
        (rule("tasks", "at = []\nto = [\"admin\"]"), "the notice is never told"),
        (rule("tasks", "at = [\"80%\"]\nto = [\"group\"]"), "\"group\": there are no groups of tenants yet"),
        (rule("tasks", "at = [\"80%\"]\nto = [\"everybody\"]"), "\"everybody\" is no address of mail"),
        (rule("tasks", "at = [\"80%\"]\nclear = \"80%\"\nto = [\"admin\"]"), "\"80%\" is not below \"80%\""),
        (rule("disk", "at = [\"soft\"]\nclear = \"80%\"\nto = [\"admin\"]"), "clears nothing (remove it"),
        (rule("tasks", "at = [\"80%\"]\nrepeat = \"1m\"\nto = [\"admin\"]"), "the value is below 1h (from 1h to 365d)"),
        (rule("tasks", "at = [\"80%\"]\nto = [\"admin\"]\nmail = 1"), "unknown key \"mail\""),
        (rule("tasks", "at = [\"80%\"]\nto = [\"a@b\"]").repeat(2), "two notices tell the same people of \"tasks\""),
        ("[contact]\nmail = [\"-f@b\"]".to_owned(), "\"-f@b\" is no address of mail"),
        ("[contact]\nmail = [\"a@b\", \"a@b\"]".to_owned(), "\"a@b\" is in the list twice"),
        ("[contact]\nlanguage = \"fr\"".to_owned(), "\"fr\" is no language of notices; one of en, de"),
        ("[contact]".to_owned(), "nothing is below [contact]"),
    ] {
        for found in [host(&content), tenant(&format!("plan = \"small\"\n{content}"))] {
            assert!(found.len() == 1 && found[0].contains(complaint), "{content}: {found:?}");
        }
    }
    let admin = rule("tasks", "at = [\"80%\"]\nto = [\"admin\"]");
    assert!(host(&admin)[0].contains("bailiwick.toml has no address of the operator"), "{:?}", host(&admin));
    for (content, complaint) in [
        (admin + "[limits]\ntasks = 9", "bailiwick.toml has no address of the operator"),
        (rule("tasks", "at = [\"80%\"]\nto = [\"tenant\"]") + "[limits]\ntasks = 9", "the tenant has no address"),
        (rule("disk", "at = [\"80%\"]\nto = [\"a@b\"]"), "about \"disk\", and the tenant has no such limit"),
        (rule("network", "at = [\"80%\"]\nto = [\"a@b\"]"), "the tenant has no such volume of the month"),
        (
            rule("disk", "at = [\"soft\"]\nto = [\"a@b\"]") + "[limits]\ndisk = \"1G\"",
            "at the soft limit of \"disk\", and the tenant has none",
        ),
    ] {
        let found = tenant(&format!("plan = \"small\"\n{content}"));
        assert!(found.len() == 1 && found[0].contains(complaint), "{content}: {found:?}");
    }
}

#[test]
fn a_name_that_every_domain_has_for_its_operator_sends_no_mail() {
    let hint = "(give the tenant another name, or write per_hour = 0 below [mail])";
    for name in ["abuse", "hostmaster", "mailer-daemon", "postmaster", "webmaster"] {
        let complaint = |at: &str| {
            format!(
                "CONFIG/tenants.d/{name}.toml:{at}: mail from a tenant \"{name}\" would look like the host's own: \
                 every domain has such an address {hint}"
            )
        };
        let file = format!("tenants.d/{name}.toml");
        let directory = Directory::with(&[("plans.d/small.toml", ""), ("plans.d/mail.toml", "[mail]\nper_hour = 1\n")]);
        for (text, golden) in [
            ("plan = \"small\"\n[mail]\nper_hour = 5\n", vec![complaint("2:1")]),
            ("plan = \"mail\"\n", vec![complaint("1:8")]),
            ("plan = \"mail\"\n[mail]\nper_hour = 0\n", vec![]),
            ("plan = \"small\"\n", vec![]),
        ] {
            directory.write(&file, text);
            assert_eq!(directory.complaints(), golden, "{text}");
        }
    }
}

#[test]
fn bytes_that_are_no_text() {
    let directory = Directory::with(&[("plans.d/small.toml", "")]);
    directory.write("tenants.d/alice.toml", b"plan = \"small\"\n# \xc3\xa4\xff");
    assert_eq!(
        directory.complaints(),
        ["CONFIG/tenants.d/alice.toml:2:4: the file is not UTF-8 text: byte 0xff (save the file as UTF-8)"]
    );
    directory.write("tenants.d/alice.toml", b"\0\0\0");
    assert_eq!(directory.complaints().len(), 1);
    assert_eq!(directory.read().invalid.len(), 1);
}

#[test]
fn as_json() {
    let directory = Directory::with(&[("bailiwick.toml", "user = 1")]);
    let json = serde_json::to_value(directory.read().diagnostics).expect("serialises");
    let file = directory.path().join("bailiwick.toml");
    assert_eq!(
        json,
        serde_json::json!([{
            "file": file, "line": 1, "column": 8, "severity": "error",
            "message": "expected a text in quotes, found a whole number", "hint": null,
        }])
    );
}

#[test]
fn a_login_for_ftp_is_locked_to_a_place_below_the_home_and_none_is_there_twice() {
    let hash = format!("$5$salt${}", "x".repeat(43));
    let login = |more: &str| format!("[[ftp]]\nname = \"a\"\npassword = \"{hash}\"\n{more}");
    for (directory, complaint) in [
        ("/www", "\"/www\" is an absolute path"),
        ("../bob", "\"../bob\" is no plain path"),
        ("www/../..", "\"www/../..\" is no plain path"),
        ("www//blog", "\"www//blog\" is no plain path"),
        ("", "\"\" is no plain path"),
    ] {
        let complaints = tenant(&format!("plan = \"small\"\n{}", login(&format!("directory = \"{directory}\""))));
        let hint = "write it from the login user's home on, such as \"www/blog\"";
        assert_eq!(complaints, [format!("5:13: {complaint} ({hint})")]);
    }
    let complaints = tenant(&format!("plan = \"small\"\n{}{}", login(""), login("sessions = 0")));
    assert_eq!(
        complaints,
        [
            "6:8: there are two ftp logins \"a\" (give one of them another name, or take it out)",
            "8:12: no session at all (take the whole [[ftp]] out to close it)"
        ]
    );
    let secret = tenant(&format!("plan = \"small\"\n{}", login("").replace("$5$", "$1$")));
    assert!(secret.len() == 1 && !secret[0].contains("xxx"), "{secret:?}");
}

/// The complaints about the host's `[network]` with these lines, from line 2 on.
fn host_network(lines: &str) -> Vec<String> {
    host(&format!("[network]\n{lines}"))
}

/// The complaints about a tenant with a network and these lines, from line 4 on.
fn network(lines: &str) -> Vec<String> {
    tenant(&format!("plan = \"small\"\n[network]\nmode = \"outbound\"\n{lines}"))
}

#[test]
fn a_network_that_cannot_be() {
    let good = r#"
allow = ["0.0.0.0/0", "::/0", "9.9.9.9", "example.org", { to = "a.b", ports = ["tcp/25", "ping"] }]
ports = ["tcp/587", "udp/1-65535", "dns", "ping"]
smtp = true
up = "8K"
down = "unlimited"
month = { bytes = "1M", then = "notify", notify = [1, 100] }
connections = 100_000
"#;
    assert_eq!(network(good), [""; 0]);
    assert_eq!(network("month = \"unlimited\""), [""; 0]);
    let prefix = "(write a prefix such as \"192.0.2.0/24\", or the name of a host such as \"example.org\", without \
                  \"https://\", port and path)";
    let always = "(remove it; [[link]] leads to another tenant, and host_sockets to a service of the host)";
    let rate = "(from 8K a second, such as \"20M\" (bytes) or \"100Mbit\", or \"unlimited\")";
    let volume = "(from 1M to 1024T; for no bound write month = \"unlimited\")";
    let cases: &[(&str, &[&str])] = &[
        (
            "colour = 1",
            &["4:1: unknown key \"colour\" (below [network] there are: mode, allow, ports, smtp, \
             publish, up, down, month, connections)"],
        ),
        ("port = \"tcp/80\"", &["4:1: unknown key \"port\" (did you mean \"ports\"?)"]),
        (
            "allow = \"a.b\"",
            &["4:9: expected a list in square brackets, found a text in quotes (write allow = [\"a.b\"])"],
        ),
        (
            "allow = [7, \"10.0.0.1/8\", \"::ffff:9.9.9.9\", \"9.0.0.0/33\"]",
            &[
                "4:10: expected a text in quotes, found a whole number",
                "4:13: \"10.0.0.1/8\" has bits set after the first 8 (write \"10.0.0.0/8\", or \
             \"10.0.0.1\" for the one address)",
                "4:27: the prefix is IPv4, written as IPv6 (write \"9.9.9.9\")",
                "4:45: an address of this family has 32 bits, and the prefix has 33 (write one such as \
             \"192.0.2.0/24\" or \"2001:db8::/32\")",
            ],
        ),
        ("allow = [\"a.b\", { to = \"A.B\" }]", &["4:17: \"a.b\" is in the list twice (take one of them out)"]),
        (
            "allow = [{ ports = [\"dns\"] }, { to = \"a.b\", ports = [] }, { tos = \"a.b\" }, { to \
             = \"b.c\", ports = [\"tcp/0\"] }]",
            &[
                "4:10: the entry has no \"to\" (write where it leads, such as to = \"example.org\")",
                "4:21: \"dns\" leads to the resolvers, and not to this destination (write it into \
             \"ports\" below [network])",
                "4:53: nothing may be sent there (remove the whole entry)",
                "4:61: unknown key \"tos\" (did you mean \"to\"?)",
                "4:99: \"0\" is no port: ports are from 1 to 65535",
            ],
        ),
        (
            "allow = [{ to = \"a.b\", port = \"tcp/22\" }, { port = [\"tcp/22\"] }]",
            &[
                "4:24: unknown key \"port\" (did you mean \"ports\"?)",
                "4:43: the entry has no \"to\" (write where it leads, such as to = \"example.org\")",
                "4:45: unknown key \"port\" (did you mean \"ports\"?)",
            ],
        ),
        (
            "ports = [\"http\", \"sctp/80\", \"tcp/9-8\", \"tcp/65536\", \"udp/0\", \"ping\", \
             \"ping\", 80]",
            &[
                "4:10: \"http\" is none of \"tcp/443\", \"udp/443\", \"tcp/8000-8999\", \"dns\" and \
             \"ping\"",
                "4:18: unknown transport \"sctp\"; \"tcp\" or \"udp\"",
                "4:29: the range starts above its end; write 8-9",
                "4:40: \"65536\" is no port: ports are from 1 to 65535",
                "4:53: \"0\" is no port: ports are from 1 to 65535",
                "4:70: \"ping\" is in the list twice (take one of them out)",
                "4:78: expected a text in quotes, found a whole number",
            ],
        ),
        (
            "ports = [\"tcp/25\", \"udp/25\", \"tcp/1-1024\"]\nallow = [{ to = \"a.b\", ports = \
             [\"tcp/465\"] }]",
            &[
                "4:10: \"tcp/25\" is for mail, which smtp = false refuses (write smtp = true, or remove \
             it: [mail] sends through the host)",
                "5:10: \"tcp/465\" is for mail, which smtp = false refuses (write smtp = true, or \
             remove it: [mail] sends through the host)",
            ],
        ),
        ("smtp = \"yes\"", &["4:8: expected true or false, found a text in quotes"]),
        (
            "publish = [{ host = \"tcp/40000\", to = \"tcp/1\" }]",
            &["4:11: \"publish\" with mode = \"outbound\" (write mode = \"published\", or remove this \
             line)"],
        ),
        (
            "up = 20",
            &["4:6: expected a rate such as \"20M\", found a whole number (write it in quotes, with \
             its unit)"],
        ),
        (
            "up = \"20mbit\"\ndown = \"many\"",
            &[
                "4:6: unknown unit \"mbit\"; use K, M, G or T (bytes, 1024-based), or kbit, Mbit or Gbit",
                "5:8: expected a number with a unit, such as \"20M\"",
            ],
        ),
        (
            "month = \"200G\"",
            &["4:9: expected a table, or \"unlimited\", found a text in quotes (write month = { \
             bytes = \"200G\", then = \"stop\" }, or what else is to happen then)"],
        ),
        (
            "month = 200",
            &[
                "4:9: expected a table, or \"unlimited\", found a whole number (write month = { bytes = \"200G\", then = \
             \"stop\" }, or what else is to happen then)",
            ],
        ),
        (
            "month = \"1K\"",
            &[
                "4:9: expected a table, or \"unlimited\", found a text in quotes (write month = { bytes = \"200G\", then = \
             \"stop\" }, or what else is to happen then)",
            ],
        ),
        (
            "month = {}",
            &[
                "4:9: the month has no \"bytes\" (write one such as bytes = \"200G\")",
                "4:9: the month has no \"then\" (write one such as then = \"stop\")",
            ],
        ),
        (
            "month = { bytes = \"1G\", then = \"end\", notify = [0, 101, 80, 80, 300] }",
            &[
                "4:32: \"end\" is none of \"stop\", \"shape RATE\" and \"notify\"",
                "4:49: 0 per cent of a volume (write numbers from 1 to 100, such as [80, 95])",
                "4:52: 101 per cent of a volume (write numbers from 1 to 100, such as [80, 95])",
                "4:61: 80 comes after 80 (write them in ascending order)",
                "4:65: the value is too large (write numbers from 1 to 100, such as [80, 95])",
            ],
        ),
        (
            "month = { bytes = \"1G\", then = \"notify\", notify = [] }",
            &["4:32: then = \"notify\" without a share to notify at (write notify = [80, 100])"],
        ),
        (
            "month = { bytes = \"1G\", then = \"shape 1K\" }",
            &["4:32: the value is below 8K (a rate from 8K a second, such as \"shape 1M\" or \"shape \
             10Mbit\")"],
        ),
        (
            "month = { bytes = \"1G\", then = \"shape fast\" }",
            &["4:32: the rate after \"shape\": expected a number with a unit, such as \"20M\""],
        ),
        ("connections = 15", &["4:15: 15 connections at a time (write a number from 16 to 100000)"]),
        ("connections = 100_001", &["4:15: 100001 connections at a time (write a number from 16 to 100000)"]),
    ];
    for (lines, complaints) in cases {
        assert_eq!(network(lines), *complaints, "{lines}");
    }
    for (lines, complaint) in [
        (
            "allow = [\"169.254.169.254\"]",
            format!(
                "4:10: \"169.254.169.254\" is always blocked: \"169.254.0.0/16\" is link-local, with \
             the metadata services of clouds (RFC 3927) {always}"
            ),
        ),
        (
            "allow = [{ to = \"fd00:ec2::254\" }]",
            format!(
                "4:17: \"fd00:ec2::254\" is always blocked: \"fc00::/7\" is private, with the metadata \
             service fd00:ec2::254 (RFC 4193) {always}"
            ),
        ),
        (
            "allow = [\"https://example.org/\"]",
            format!("4:10: \"https://example.org/\" is no address and no prefix {prefix}"),
        ),
        ("allow = [\"1.2.3\"]", format!("4:10: \"1.2.3\" is no address and no prefix {prefix}")),
        ("allow = [\"a.b/8\"]", format!("4:10: \"a.b/8\" is no address and no prefix {prefix}")),
        (
            "allow = [\"localhost\"]",
            format!(
                "4:10: \"localhost\" is no address, no prefix and no name of a host such as \"example.org\" {prefix}"
            ),
        ),
        ("up = \"8191\"", format!("4:6: the value is below 8K {rate}")),
        ("down = \"2048T\"", format!("4:8: the value is above 1024T {rate}")),
        ("month = { bytes = \"1023K\", then = \"stop\" }", format!("4:19: the value is below 1M {volume}")),
        (
            "month = { bytes = \"unlimited\", then = \"stop\" }",
            format!("4:19: \"unlimited\" is not possible here {volume}"),
        ),
    ] {
        assert_eq!(network(lines), [complaint], "{lines}");
    }
}

#[test]
fn a_network_without_a_mode() {
    for (content, complaint) in [
        (
            "[network]",
            "2:1: nothing is below [network] (below [network] there are: mode, allow, ports, smtp, \
             publish, up, down, month, connections; or remove it)",
        ),
        (
            "network = \"outbound\"",
            "2:11: expected a table (what is below [network]), found a text in quotes (write \
             network = { mode = \"outbound\" })",
        ),
        ("[network]\nmode = \"host\"", "3:8: expected one of none, outbound, published"),
        (
            "[network]\nup = \"1M\"",
            "3:6: \"up\", but the tenant has no network (add mode = \"outbound\" or mode = \
             \"published\", or remove this line)",
        ),
        (
            "[network]\nsmtp = true\nmode = \"none\"",
            "3:8: \"smtp\", but the tenant has no network (add mode = \"outbound\" or mode = \
             \"published\", or remove this line)",
        ),
    ] {
        assert_eq!(tenant(&format!("plan = \"small\"\n{content}")), [complaint], "{content}");
    }
}

#[test]
fn ports_that_cannot_be_published() {
    let published =
        |entries: &str| tenant(&format!("plan = \"small\"\n[network]\nmode = \"published\"\npublish = [{entries}]"));
    let example = "{ host = \"tcp/40132\", to = \"tcp/22\" }";
    for (entries, complaints) in [
        ("\"tcp/40132\"", &[format!("4:12: expected a table such as {example}, found a text in quotes")][..]),
        (
            "{ hots = \"tcp/40132\" }",
            &[
                format!("4:12: the entry has no \"to\" (write both ports, such as {example})"),
                "4:14: unknown key \"hots\" (did you mean \"host\"?)".to_owned(),
            ],
        ),
        (
            "{ host = \"udp/40132\", to = \"tcp/22\" }",
            &["4:39: \"udp/40132\" cannot lead to \"tcp/22\" (write \"udp/22\": both ports have one \
             transport)"
                .to_owned()],
        ),
        (
            "{ host = \"40132\", to = \"tcp/22-23\" }",
            &[
                "4:21: \"40132\" has no transport; write one such as \"tcp/443\"".to_owned(),
                "4:35: \"tcp/22-23\" is a range, and one port belongs here; write an entry for each".to_owned(),
            ],
        ),
        (
            "{ host = \"tcp/40132\", to = \"tcp/22\" }, { host = \"tcp/40132\", to = \"tcp/23\" }",
            &["4:51: \"tcp/40132\" is in the list twice (take one of them out)".to_owned()],
        ),
        (
            example,
            &["4:1: the host has no ports that tenants may publish (name them in bailiwick.toml, such \
             as network = { ports = \"40000-49999\" })"
                .to_owned()],
        ),
    ] {
        assert_eq!(published(entries), complaints, "{entries}");
    }
}

#[test]
fn a_link_that_cannot_be() {
    let link = |lines: &str| network(&format!("[[link]]\n{lines}"));
    for (lines, complaint) in [
        (
            "to = \"bob\"",
            "4:1: the link has no \"port\" (write the port that is connected to, such as port = \
             \"tcp/5432\")",
        ),
        (
            "port = \"tcp/1\"",
            "4:1: the link has no \"to\" and no \"from\" (write to = \"bob\" to connect to bob, or \
             from = \"bob\" to let bob connect)",
        ),
        (
            "port = \"tcp/1\"\nto = \"bob\"\nfrom = \"bob\"",
            "4:1: the link has \"to\" and \"from\" (write two [[link]], one for each direction)",
        ),
        (
            "port = \"tcp/1\"\nto = \"alice\"",
            "6:6: a link of \"alice\" to itself (remove it: programs of one jail reach each other \
             without one)",
        ),
        ("port = \"tcp/1\"\nto = \"Bob\"", "6:6: a name starts with a lower-case letter or \"_\", not with 'B'"),
        (
            "port = \"tcp/1\"\nfrom = \"nobody\"",
            "6:8: this name is reserved (write the name of a tenant; no tenant has this one)",
        ),
        ("port = \"5432\"\nto = \"bob\"", "5:8: \"5432\" has no transport; write one such as \"tcp/443\""),
        (
            "port = \"tcp/1-2\"\nto = \"bob\"",
            "5:8: \"tcp/1-2\" is a range, and one port belongs here; write an entry for each",
        ),
        ("port = \"tcp/1\"\ntoo = \"bob\"", "6:1: unknown key \"too\" (did you mean \"to\"?)"),
        (
            "port = \"tcp/1\"\nto = \"bob\"\n[[link]]\nport = \"tcp/1\"\nto = \"bob\"",
            "7:1: the same link is there twice (take one of them out)",
        ),
    ] {
        assert_eq!(link(lines), [complaint], "{lines}");
    }
    let offline = "plan = \"small\"\n[[link]]\nto = \"bob\"\nport = \"tcp/1\"";
    assert_eq!(
        tenant(offline),
        ["2:1: a link, but the tenant has no network (add mode = \"outbound\" below [network], \
             or remove the link)"]
    );
    let plan = Directory::with(&[("plans.d/small.toml", "[[link]]\nto = \"bob\"\nport = \"tcp/1\"")]);
    assert!(plan.complaints()[0].starts_with("CONFIG/plans.d/small.toml:1:3: unknown key \"link\""));
}

#[test]
fn too_many_items_of_a_network() {
    let list = |count: usize, item: fn(usize) -> String| (0..count).map(item).collect::<Vec<_>>().join(", ");
    let allow = |count| network(&format!("allow = [{}]", list(count, |n| format!("\"h{n}.example\""))));
    assert_eq!(allow(256), [""; 0]);
    assert_eq!(allow(257), ["4:9: more than 256 destinations (take out those that nobody uses)"]);
    let ports = |count| network(&format!("ports = [{}]", list(count, |n| format!("\"udp/{}\"", n + 100))));
    assert_eq!(ports(64), [""; 0]);
    assert_eq!(ports(65), ["4:9: more than 64 ports (take out those that nobody uses)"]);
    let publish = list(65, |n| format!("{{ host = \"tcp/{}\", to = \"tcp/1\" }}", 40_000 + n));
    assert_eq!(
        tenant(&format!("plan = \"small\"\n[network]\nmode = \"published\"\npublish = [{publish}]")),
        ["4:11: more than 64 published ports (take out those that nobody uses)"]
    );
    let notify = list(17, |n| (n + 1).to_string());
    assert_eq!(
        network(&format!("month = {{ bytes = \"1G\", then = \"stop\", notify = [{notify}] }}")),
        ["4:49: more than 16 shares (take out those that nobody uses)"]
    );
    let links = |count: usize| {
        network(&(0..count).map(|n| format!("[[link]]\nto = \"t{n}\"\nport = \"tcp/1\"\n")).collect::<String>())
    };
    assert_eq!(links(64), [""; 0]);
    assert_eq!(links(65), ["4:1: more than 64 links (take out those that nobody uses)"]);
    let block = list(257, |n| format!("\"5.{}.{}.0/24\"", n / 256, n % 256));
    assert_eq!(
        host_network(&format!("block = [{block}]")),
        ["2:9: more than 256 blocked prefixes (take out those that nobody uses)"]
    );
}

#[test]
fn a_network_of_the_host_that_cannot_be() {
    let good = "ipv4 = \"10.64.0.0/16\"\nipv6 = \"2a00:1:2:3::/64\"\nresolvers = [\"10.0.0.53\", \"2a00::53\"]\n\
                block = [\"5.0.0.0/8\", \"9.9.9.9\"]\ncache = true\ncache_user = \"dns\"\nports = \"1024-65535\"";
    assert_eq!(host_network(good), [""; 0]);
    assert_eq!(host_network("ipv4 = \"5.0.0.0/8\"\nipv6 = \"off\"\nports = \"2000\""), [""; 0]);
    let high = "ids = { first = 4293918720 }\n[network]\nipv4 = \"192.168.7.0/24\"\nipv6 = \"fd00:1::/48\"";
    assert_eq!(host(high), [""; 0]);
    let upstream = "(write the resolver that the host itself asks, or resolvers = [] for all of these)";
    let (v4, v6) = ("write one such as \"100.64.0.0/10\"", "write one such as \"fd12:3456:789a::/48\"");
    let range = "(write a range such as \"40000-49999\", from 1024 on)";
    for (lines, complaints) in [
        (
            "ipv4 = \"10.0.0.1/8\"",
            vec![
                "2:8: \"10.0.0.1/8\" has bits set after the first 8 (write \"10.0.0.0/8\", or \
             \"10.0.0.1\" for the one address)"
                    .to_owned(),
            ],
        ),
        ("ipv4 = \"fd00::/48\"", vec![format!("2:8: \"fd00::/48\" is of the other family ({v4})")]),
        (
            "ipv4 = \"10.0.0.0/7\"",
            vec![
                "2:8: \"10.0.0.0/7\" has a length of 7 (write a length from /8 to /24, such as \
             \"100.64.0.0/10\")"
                    .to_owned(),
            ],
        ),
        (
            "ipv4 = \"10.0.0.0/25\"",
            vec![
                "2:8: \"10.0.0.0/25\" has a length of 25 (write a length from /8 to /24, such as \
             \"100.64.0.0/10\")"
                    .to_owned(),
            ],
        ),
        (
            "ipv4 = \"10.0.0.0/17\"",
            vec![
                "2:8: \"10.0.0.0/17\" has 32768 addresses, and there are ids for 65383 tenants (write a \
             prefix of /16 or shorter: \"100.64.0.0/16\")"
                    .to_owned(),
            ],
        ),
        (
            "ipv4 = \"127.0.0.0/8\"",
            vec![format!(
                "2:8: \"127.0.0.0/8\" overlaps \"127.0.0.0/8\", which is loopback (RFC 1122, 3.2.1.3) \
             ({v4})"
            )],
        ),
        (
            "ipv4 = \"172.0.0.0/8\"",
            vec![format!("2:8: \"172.0.0.0/8\" overlaps \"172.16.0.0/12\", which is private (RFC 1918) ({v4})")],
        ),
        (
            "ipv6 = \"on\"",
            vec![
                "2:8: unknown word \"on\" (\"auto\", \"off\", or a prefix such as \"fd12:3456:789a::/48\")".to_owned(),
            ],
        ),
        (
            "ipv6 = \"fd00::/40\"",
            vec![
                "2:8: \"fd00::/40\" has a length of 40 (write a length from /48 to /64, such as \
             \"fd12:3456:789a::/48\")"
                    .to_owned(),
            ],
        ),
        (
            "ipv6 = \"fe80::/64\"",
            vec![format!("2:8: \"fe80::/64\" overlaps \"fe80::/10\", which is link-local (RFC 4291, 2.5.6) ({v6})")],
        ),
        (
            "resolvers = [\"127.0.0.53\", \"::\", \"ff02::1\"]",
            vec![
                format!("2:14: \"127.0.0.53\" is the jail itself, inside a jail {upstream}"),
                format!("2:28: \"::\" is no address of a host {upstream}"),
                format!("2:34: \"ff02::1\" is multicast {upstream}"),
            ],
        ),
        (
            "resolvers = [\"fe80::1\", \"::ffff:9.9.9.9\", \"9.9.9.9:53\"]",
            vec![
                format!("2:14: \"fe80::1\" is link-local, and a jail has another link {upstream}"),
                format!("2:25: \"::ffff:9.9.9.9\" is IPv4, written as IPv6 {upstream}"),
                "2:43: \"9.9.9.9:53\" is no address (write one such as \"9.9.9.9\", without a port)".to_owned(),
            ],
        ),
        (
            "resolvers = [\"9.9.9.9\", \"9.9.9.9\"]",
            vec!["2:25: \"9.9.9.9\" is in the list twice (take one of them out)".to_owned()],
        ),
        (
            "resolvers = [\"9.0.0.1\", \"9.0.0.2\", \"9.0.0.3\", \"9.0.0.4\"]",
            vec!["2:13: more than 3 resolvers (take out those that nobody uses)".to_owned()],
        ),
        (
            "resolvers = [\"100.100.100.100\"]",
            vec![
                "2:14: \"100.100.100.100\" is in \"100.64.0.0/10\": a resolver inside a tenant (choose \
             another pool for jails, such as ipv4 = \"10.128.0.0/10\")"
                    .to_owned(),
            ],
        ),
        (
            "ipv6 = \"fd00:1::/48\"\nresolvers = [\"fd00:1::53\"]",
            vec![format!("3:14: \"fd00:1::53\" is in \"fd00:1::/48\": a resolver inside a tenant {upstream}")],
        ),
        (
            "block = [\"5.0.0.1/8\", \"6.0.0.0/8\", \"6.0.0.0/8\"]",
            vec![
                "2:10: \"5.0.0.1/8\" has bits set after the first 8 (write \"5.0.0.0/8\", or \
             \"5.0.0.1\" for the one address)"
                    .to_owned(),
                "2:36: \"6.0.0.0/8\" is in the list twice (take one of them out)".to_owned(),
            ],
        ),
        (
            "user = \"bailiwick\"\ncache_user = \"bailiwick\"",
            vec![
                "2:8: the router must not belong to \"bailiwick\", the user of bailiwickd (give each a user of its own, such as \"bailiwick\", \"bailiwick-net\" and \"bailiwick-dns\")"
                    .to_owned(),
                "3:14: the cache must not run as \"bailiwick\", the router's user (give each a user of its own, such as \"bailiwick\", \"bailiwick-net\" and \"bailiwick-dns\")"
                    .to_owned(),
            ],
        ),
        (
            "cache_user = \"bailiwick\"",
            vec![
                "2:14: the cache must not run as \"bailiwick\", the user of bailiwickd (give each a user of its own, such as \"bailiwick\", \"bailiwick-net\" and \"bailiwick-dns\")"
                    .to_owned(),
            ],
        ),
        (
            "user = \"bailiwick-dns\"",
            vec![
                "2:8: the cache must not run as \"bailiwick-dns\", the router's user (give each a user of its own, such as \"bailiwick\", \"bailiwick-net\" and \"bailiwick-dns\")"
                    .to_owned(),
            ],
        ),
        (
            "user = \"net\"\ncache_user = \"net\"",
            vec![
                "3:14: the cache must not run as \"net\", the router's user (give each a user of its own, such as \"bailiwick\", \"bailiwick-net\" and \"bailiwick-dns\")"
                    .to_owned(),
            ],
        ),
        (
            "cache_user = \"0\"\ncache = \"yes\"",
            vec![
                "2:14: the cache must not run as root (give it a user of its own, such as \"bailiwick-dns\")"
                    .to_owned(),
                "3:9: expected true or false, found a text in quotes".to_owned(),
            ],
        ),
        ("ports = \"1023-2000\"", vec![format!("2:9: \"1023-2000\" has ports of the host's own services {range}")]),
        ("ports = \"2000-1999\"", vec![format!("2:9: the range starts above its end; write 1999-2000 {range}")]),
        ("ports = \"tcp/2000\"", vec![format!("2:9: \"tcp/2000\" is no port: ports are from 1 to 65535 {range}")]),
        ("ports = [40000, 49999]", vec![format!("2:9: expected a text in quotes, found a list {range}")]),
        (
            "",
            vec![
                "1:1: nothing is in \"network\" (in \"network\" there are: user, ipv4, ipv6, resolvers, \
             cache, cache_user, block, ports; or remove it)"
                    .to_owned(),
            ],
        ),
    ] {
        assert_eq!(host_network(lines), complaints, "{lines}");
    }
}
