//! The servers of the host that lead to tenants: what is installed, whether its configuration can be read, and what proves that it
//! leads where it should.

use crate::machine::Machine;
use bailiwick_proto::Failure;
use bailiwick_types::ExitStatus;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The drop-in that hands tenants to `bailiwick-shell`. The package brings it.
pub(crate) const SSHD_DROP_IN: &str = "/etc/ssh/sshd_config.d/00-bailiwick.conf";
pub(crate) const SSHD_DROP_IN_TEXT: &str = include_str!("../../../../config/sshd/00-bailiwick.conf");
pub(crate) const SSHD_CONFIG: &str = "/etc/ssh/sshd_config";
pub(crate) const SSHD_INCLUDE: &str = "Include /etc/ssh/sshd_config.d/*.conf\n";
const SSHD: &str = "/usr/sbin/sshd";
/// sshd reads no configuration before this directory is there. Its service makes it at each start.
const SSHD_DIR: &str = "/run/sshd";
const VSFTPD_TEXT: &str = include_str!("../../../../config/ftp/vsftpd.conf");
const PROFTPD_TEXT: &str = include_str!("../../../../config/ftp/proftpd.conf");
/// The certificate that both configurations name, and its key.
const CERTIFICATE: [&str; 2] = ["/etc/ssl/certs/ssl-cert-snakeoil.pem", "/etc/ssl/private/ssl-cert-snakeoil.key"];
/// The name of a user that exists while sshd is asked what it would do with one.
const PROOF_USER: &str = "bailiwick-proof";
/// What sshd must do with every tenant.
const PROVED: &[&str] = &[
    "forcecommand /usr/bin/bailiwick-shell",
    "authorizedkeyscommand /usr/bin/bailiwick keys %u",
    "authorizedkeysfile none",
    "disableforwarding yes",
];

/// The servers that are installed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoorFacts {
    /// sshd.
    pub sshd: Option<SshdFacts>,
    /// vsftpd or ProFTPD.
    pub ftp: Option<FtpFacts>,
    /// nginx: what is wrong with its configuration, if anything is.
    pub nginx: Option<Option<String>>,
}

/// What is known of sshd.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshdFacts {
    /// What `sshd -t` says is wrong with its configuration.
    pub problem: Option<String>,
    /// The main configuration file.
    pub config: String,
    /// Whether the drop-in is there.
    pub has_drop_in: bool,
}

/// What is known of the FTP server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FtpFacts {
    /// Its unit.
    pub unit: String,
    /// Its configuration file.
    pub config: PathBuf,
    /// What that file should say.
    pub wanted: String,
    /// Whether somebody has changed that file since the package brought it.
    pub is_changed: bool,
    /// A file of the certificate that is missing.
    pub missing: Option<PathBuf>,
}

impl DoorFacts {
    pub(crate) fn read(machine: &mut Machine<'_>) -> Result<Self, Failure> {
        Ok(Self { sshd: sshd(machine)?, ftp: ftp(machine)?, nginx: nginx(machine)? })
    }
}

fn sshd(machine: &mut Machine<'_>) -> Result<Option<SshdFacts>, Failure> {
    if !machine.exists(SSHD) {
        return Ok(None);
    }
    let said = with_sshd_dir(machine, |machine| machine.ask(SSHD, &["-t"]))?;
    Ok(Some(SshdFacts {
        problem: (!said.is_ok()).then(|| said.complaint()),
        config: machine.read_text(SSHD_CONFIG)?.unwrap_or_default(),
        has_drop_in: machine.exists(SSHD_DROP_IN),
    }))
}

/// Asks sshd something. If its directory is not there, because it has not run since the boot, it is there meanwhile.
fn with_sshd_dir<T>(
    machine: &mut Machine<'_>,
    ask: impl FnOnce(&mut Machine<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let dir = machine.at(SSHD_DIR);
    let is_made = std::fs::create_dir(&dir).is_ok();
    let said = ask(machine);
    if is_made {
        // Another start of sshd may have begun to use it, and needs it.
        std::fs::remove_dir(&dir).ok();
    }
    said
}

/// Whether a configuration of sshd reads the drop-ins, before anything in it is about some users alone.
pub(crate) fn reads_drop_ins(config: &str) -> bool {
    let lines = config.lines().map(|line| line.trim().to_ascii_lowercase());
    let mut whole = lines.take_while(|line| !line.starts_with("match"));
    whole.any(|line| line.starts_with("include") && line.contains("sshd_config.d/*.conf"))
}

fn ftp(machine: &mut Machine<'_>) -> Result<Option<FtpFacts>, Failure> {
    let missing = CERTIFICATE.iter().find(|path| !machine.exists(path)).map(PathBuf::from);
    if machine.exists("/usr/sbin/proftpd") {
        let config = PathBuf::from("/etc/proftpd/proftpd.conf");
        let (now, brought) =
            (machine.read_text(&config)?, machine.read_text("/usr/share/proftpd/templates/proftpd.conf")?);
        let wanted = PROFTPD_TEXT.to_owned();
        let is_changed = now.is_some() && now != brought && now.as_ref() != Some(&wanted);
        return Ok(Some(FtpFacts { unit: "proftpd.service".to_owned(), config, wanted, is_changed, missing }));
    }
    if !machine.exists("/usr/sbin/vsftpd") {
        return Ok(None);
    }
    let asked = machine.ask("dpkg-query", &["-W", "-f", "${Version}\n${Conffiles}\n", "vsftpd"])?;
    let mut wanted = VSFTPD_TEXT.to_owned();
    // Its own filter knows too few calls of today's C library; 3.0.5 has mended that.
    if asked.out.starts_with("3.0.3") {
        wanted += "\n# This version needs calls that its own filter refuses.\nseccomp_sandbox=NO\n";
    }
    let config = PathBuf::from("/etc/vsftpd.conf");
    let now = machine.read_text(&config)?;
    let sums = machine.ask("md5sum", &[&machine.text_at(&config)])?;
    let sum = sums.out.split_whitespace().next().unwrap_or("none").to_owned();
    let is_changed = now.is_some() && !asked.out.contains(&sum) && now.as_ref() != Some(&wanted);
    Ok(Some(FtpFacts { unit: "vsftpd.service".to_owned(), config, wanted, is_changed, missing }))
}

fn nginx(machine: &mut Machine<'_>) -> Result<Option<Option<String>>, Failure> {
    if !machine.exists("/usr/sbin/nginx") {
        return Ok(None);
    }
    let said = machine.ask("/usr/sbin/nginx", &["-t", "-q"])?;
    Ok(Some((!said.is_ok()).then(|| said.complaint())))
}

/// Asks sshd what it would do with a tenant, and checks that. Nobody needs to be a tenant yet: a user of the tenants' group exists
/// meanwhile.
pub(crate) fn prove_sshd(machine: &mut Machine<'_>, group: &str, free_id: u32, records: &Path) -> Result<(), Failure> {
    let gid = group.parse().ok().or_else(|| machine.system().group(group));
    let no_group = || {
        let message = format!("the group \"{group}\" of tenants' host users does not exist; run `systemd-sysusers`");
        Failure::of(ExitStatus::HostCannot, message)
    };
    let gid = gid.ok_or_else(no_group)?;
    let record = serde_json::json!({
        "userName": PROOF_USER, "uid": free_id, "gid": gid, "realName": "asked of sshd by bailiwick setup",
        "homeDirectory": "/", "shell": "/usr/sbin/nologin", "disposition": "regular", "service": "bailiwick-setup",
    });
    let path = proof_record(records);
    machine.write(&path, format!("{record}\n").as_bytes(), 0o644)?;
    let user = format!("user={PROOF_USER},host=localhost,addr=127.0.0.1");
    let said = with_sshd_dir(machine, |machine| machine.ask(SSHD, &["-T", "-C", &user]));
    machine.remove(&path)?;
    let said = said?;
    if !said.is_ok() {
        return Err(Failure::of(
            ExitStatus::Failed,
            format!("sshd cannot read its configuration: {}", said.complaint()),
        ));
    }
    let lines: Vec<String> = said.out.lines().map(|line| line.trim().to_ascii_lowercase()).collect();
    let lacks: Vec<&str> = PROVED.iter().copied().filter(|wanted| !lines.iter().any(|line| line == wanted)).collect();
    if lacks.is_empty() {
        return Ok(());
    }
    let message = format!(
        "sshd would not hand tenants to bailiwick-shell: `sshd -T -C {user}` lacks \"{}\"; see which file in \
         /etc/ssh/sshd_config.d comes before 00-bailiwick.conf, and what `bailiwick doctor` says of \"host-users\"",
        lacks.join("\", \"")
    );
    Err(Failure::of(ExitStatus::Conflict, message))
}

/// The record of the user that sshd is asked about.
pub(crate) fn proof_record(records: &Path) -> PathBuf {
    records.join(format!("{PROOF_USER}.user"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_include_counts_before_the_first_match() {
        for (config, golden) in [
            ("Include /etc/ssh/sshd_config.d/*.conf\nPort 22\n", true),
            ("# Include /etc/ssh/sshd_config.d/*.conf\n", false),
            ("Port 22\n  include  /etc/ssh/sshd_config.d/*.conf\n", true),
            ("Match User git\nInclude /etc/ssh/sshd_config.d/*.conf\n", false),
            ("", false),
        ] {
            assert_eq!(reads_drop_ins(config), golden, "{config}");
        }
    }

    #[test]
    fn what_is_proved_is_in_the_drop_in() {
        let text = SSHD_DROP_IN_TEXT.to_ascii_lowercase();
        for line in PROVED {
            assert!(text.lines().any(|found| found.trim() == *line), "{line}");
        }
    }
}
