//! What jails see of the host's `/etc`: one directory of copies for all jails, in the runtime directory. It follows
//! the host while jails run.
//!
//! Danger: every tenant can read it. Where a file lies does not matter: the bytes are read, compared with what a
//! package brought ([`bailiwick_policy::host_etc`]), and then those bytes are copied. No file is checked first and
//! copied later.

use crate::host_files::md5::md5;
use bailiwick_policy::EtcSettings;
use bailiwick_policy::host_etc::{
    GENERATED, LinkTarget, conffiles, digests, holds_private_key, is_barred, is_taken_whole, link_target,
    packages_by_source, ucf_files, ucf_owners,
};
use bailiwick_sys::file::{self, Metadata};
use rustix::fs::{FileType, Mode, OFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The directory that jails see, and the one where copies are made.
const VIEW: &str = "host-etc";
const READY: &str = "host-etc.new";
/// Limits: bytes of a file, bytes of all files, number of files, depth. What exceeds them is not shown.
const MAX_FILE: usize = 8 << 20;
const MAX_BYTES: usize = 64 << 20;
const MAX_ENTRIES: usize = 50_000;
const MAX_DEPTH: usize = 16;
/// The most bytes to read of a file of dpkg or ucf.
const MAX_NOTES: usize = 64 << 20;
/// How often to check for changed packages, and for files that anybody else changed.
const PACKAGES: Duration = Duration::from_secs(5);
const FILES: Duration = Duration::from_secs(20);

/// Device, inode, time of change and size: differs after a change.
type Stamp = (u64, u64, i128, u64);

fn stamp(facts: &Metadata) -> Stamp {
    (facts.device, facts.inode, facts.modified, facts.size)
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Shown {
    File(Stamp),
    Link(String),
}

/// The directory, and what was known when it was last updated.
#[derive(Debug)]
pub(crate) struct EtcView {
    /// `/`, or another root in tests.
    root: PathBuf,
    etc: OwnedFd,
    dir: OwnedFd,
    ready: OwnedFd,
    wishes: EtcSettings,
    /// Digests of what packages brought, by path below `/etc`.
    brought: BTreeMap<String, BTreeSet<String>>,
    packages: Vec<Option<Stamp>>,
    /// Compared files, and whether each is as a package brought it.
    compared: BTreeMap<String, (Stamp, bool)>,
    shown: BTreeMap<String, Shown>,
    looked: Option<(Instant, Instant)>,
    /// How often the content has changed.
    edition: u64,
}

impl EtcView {
    /// Makes the directory, or takes over the one that running jails see.
    pub(crate) fn open(runtime: &OwnedFd, wishes: &EtcSettings) -> io::Result<Self> {
        Self::of(Path::new("/"), runtime, wishes)
    }

    fn of(root: &Path, runtime: &OwnedFd, wishes: &EtcSettings) -> io::Result<Self> {
        let dir = file::ensure_dir_at(runtime, VIEW, 0o755)?;
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755))?;
        let ready = file::ensure_dir_at(runtime, READY, 0o700)?;
        let mut view = Self {
            root: root.to_owned(),
            etc: file::open_dir(&root.join("etc"))?,
            dir,
            ready,
            wishes: wishes.clone(),
            brought: BTreeMap::new(),
            packages: Vec::new(),
            compared: BTreeMap::new(),
            shown: BTreeMap::new(),
            looked: None,
            edition: 0,
        };
        view.look();
        Ok(view)
    }

    /// The directory, for a mount.
    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// How often this warden has changed the content. After a change, running jails must be renewed.
    pub(crate) fn edition(&self) -> u64 {
        self.edition
    }

    /// Looks at the host when it is time to.
    pub(crate) fn look_again(&mut self, wishes: &EtcSettings) {
        let now = Instant::now();
        let has_other_wishes = *wishes != self.wishes;
        if let Some((packages, files)) = self.looked
            && !has_other_wishes
        {
            if now < packages + PACKAGES {
                return;
            }
            if now < files + FILES && self.packages == notes(&self.root) {
                self.looked = Some((now, files));
                return;
            }
        }
        if has_other_wishes {
            self.wishes = wishes.clone();
        }
        self.look();
    }

    /// Updates the directory. A file that cannot be read is not shown; one that cannot be written is tried again.
    fn look(&mut self) {
        let packages = notes(&self.root);
        if packages != self.packages {
            self.brought = brought(&self.root);
            self.compared.clear();
        }
        let mut walk = Walk { view: self, wanted: BTreeMap::new(), bytes: 0, entries: 0 };
        walk.all();
        let wanted = walk.wanted;
        self.put(wanted);
        self.packages = packages;
        let now = Instant::now();
        self.looked = Some((now, now));
    }

    /// Makes the content as wanted, one name at a time. Each name is old, new or missing, never half written.
    fn put(&mut self, wanted: BTreeMap<String, (Shown, Option<Vec<u8>>)>) {
        let mut shown = BTreeMap::new();
        let mut wanted_dirs: BTreeSet<String> = BTreeSet::new();
        for path in wanted.keys() {
            wanted_dirs.extend(path.match_indices('/').map(|(end, _)| path[..end].to_owned()));
        }
        self.remove_others(None, &wanted, &wanted_dirs, 0).ok();
        for (path, (what, content)) in wanted {
            let is_there = self.shown.get(&path) == Some(&what);
            if is_there || self.put_one(&path, &what, content.as_deref()).is_ok() {
                shown.insert(path, what);
            }
        }
        if shown != self.shown {
            self.shown = shown;
            self.edition += 1;
        }
    }

    fn put_one(&self, path: &str, what: &Shown, content: Option<&[u8]>) -> io::Result<()> {
        const NAME: &str = "entry";
        file::remove_file_at(&self.ready, NAME)?;
        match (what, content) {
            (Shown::Link(to), _) => rustix::fs::symlinkat(to.as_str(), &self.ready, NAME)?,
            (Shown::File(_), Some(content)) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                let new = file::open_at(&self.ready, NAME, flags, Mode::from_raw_mode(0o444))?;
                rustix::fs::fchmod(&new, Mode::from_raw_mode(0o444))?;
                std::fs::File::from(new).write_all(content)?;
            }
            (Shown::File(_), None) => return Err(io::ErrorKind::InvalidInput.into()),
        }
        let (above, name) = path.rsplit_once('/').map_or((None, path), |(above, name)| (Some(above), name));
        let mut dir: Option<OwnedFd> = None;
        for part in above.into_iter().flat_map(|above| above.split('/')) {
            let below = file::ensure_dir_at(dir.as_ref().unwrap_or(&self.dir), part, 0o755)?;
            rustix::fs::fchmod(&below, Mode::from_raw_mode(0o755))?;
            dir = Some(below);
        }
        Ok(rustix::fs::renameat(&self.ready, NAME, dir.as_ref().unwrap_or(&self.dir), name)?)
    }

    /// Removes what is not wanted, by the directory's own names, so nothing of an earlier warden stays.
    fn remove_others(
        &self,
        at: Option<(&OwnedFd, &str)>,
        wanted: &BTreeMap<String, (Shown, Option<Vec<u8>>)>,
        wanted_dirs: &BTreeSet<String>,
        depth: usize,
    ) -> io::Result<()> {
        let dir = at.map_or(&self.dir, |(dir, _)| dir);
        for name in file::names(file::open_dir_at(dir, ".")?)? {
            let name = name.to_string_lossy().into_owned();
            let path = at.map_or_else(|| name.clone(), |(_, above)| format!("{above}/{name}"));
            if file::metadata_at(dir, &name)?.kind == FileType::Directory {
                let below = file::open_dir_at(dir, &name)?;
                if depth < MAX_DEPTH {
                    self.remove_others(Some((&below, &path)), wanted, wanted_dirs, depth + 1)?;
                }
                if !wanted_dirs.contains(&path) {
                    file::remove_dir_at(dir, &name)?;
                }
            } else if !wanted.contains_key(&path) {
                file::remove_file_at(dir, &name)?;
            }
        }
        Ok(())
    }
}

/// What shows that packages have changed.
fn notes(root: &Path) -> Vec<Option<Stamp>> {
    ["var/lib/dpkg/status", "var/lib/ucf/hashfile", "etc/ld.so.cache"]
        .map(|path| {
            let path = root.join(path);
            file::open_dir(path.parent()?).ok().and_then(|dir| {
                let facts = file::metadata_at(&dir, path.file_name()?).ok()?;
                Some(stamp(&facts))
            })
        })
        .into()
}

fn brought(root: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let read = |path: &str| {
        let bytes = std::fs::File::open(root.join(path)).and_then(|file| file::read_bounded(file.into(), MAX_NOTES));
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    };
    let (status, hashes) = (read("var/lib/dpkg/status"), read("var/lib/ucf/hashfile"));
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut note = |path: &str, digest: &str| found.entry(path.to_owned()).or_default().insert(digest.to_owned());
    for (path, digest) in conffiles(&status) {
        note(path, digest);
    }
    let registry = read("var/lib/ucf/registry");
    let owners: BTreeMap<&str, &str> = ucf_owners(&registry).collect();
    let sources = packages_by_source(&status);
    // The name without or with the architecture: packages that can be installed for two have the latter.
    let sums_of = |package: &&str| {
        ["", ":amd64"].map(|suffix| read(&format!("var/lib/dpkg/info/{package}{suffix}.md5sums"))).concat()
    };
    let mut shipped: BTreeMap<&str, String> = BTreeMap::new();
    for (path, digest) in ucf_files(&hashes) {
        let Some(package) = owners.get(path) else { continue };
        // The script of a package may install a file of another one: php-fpm's php.ini is in the package php-common.
        let Some((source, packages)) = sources.iter().find(|(_, packages)| packages.contains(package)) else {
            continue;
        };
        let sums = shipped.entry(source).or_insert_with(|| packages.iter().map(sums_of).collect());
        if digests(sums).any(|known| known == digest) {
            note(path, digest);
        }
    }
    found
}

/// One pass over the host's `/etc`.
struct Walk<'a> {
    view: &'a mut EtcView,
    wanted: BTreeMap<String, (Shown, Option<Vec<u8>>)>,
    bytes: usize,
    entries: usize,
}

impl Walk<'_> {
    fn all(&mut self) {
        let first = |path: &str| path.split('/').next().unwrap_or_default().to_owned();
        let wishes = self.view.wishes.clone();
        let mut names: BTreeSet<String> = self.view.brought.keys().map(|path| first(path)).collect();
        names.extend(GENERATED.iter().map(|path| first(path)));
        names.extend(wishes.extra.iter().map(|path| first(path)));
        let Ok(etc) = self.view.etc.try_clone() else { return };
        for name in names {
            let before = self.wanted.len();
            // What cannot be read counts as missing.
            self.entry(&etc, &name, &name, 0).ok();
            let has_file = |(path, (what, _)): (&String, &(Shown, _))| {
                (path == &name || path.starts_with(&format!("{name}/"))) && matches!(what, Shown::File(_))
            };
            // Links alone are useless, unless they are what is wanted.
            let keeps = GENERATED.contains(&name.as_str()) || wishes.extra.contains(&name);
            if self.wanted.len() > before && !keeps && !self.wanted.iter().any(has_file) {
                self.wanted.retain(|path, _| path != &name && !path.starts_with(&format!("{name}/")));
            }
        }
        self.drop_links_to_nothing();
    }

    /// A link is shown only if its target is. Removing a link may remove another link's target.
    fn drop_links_to_nothing(&mut self) {
        loop {
            let is_there = |to: &str| {
                let below = format!("{to}/");
                self.wanted.contains_key(to)
                    || self.wanted.range(below.clone()..).next().is_some_and(|(path, _)| path.starts_with(&below))
            };
            let leads_nowhere = |(path, (what, _)): (&String, &(Shown, _))| match what {
                Shown::Link(to) => match link_target(path, to, &self.view.wishes) {
                    Some(LinkTarget::Usr) => false,
                    Some(LinkTarget::Etc(to)) => !is_there(&to),
                    None => true,
                },
                Shown::File(_) => false,
            };
            let gone: Vec<String> =
                self.wanted.iter().filter(|row| leads_nowhere(*row)).map(|(path, _)| path.clone()).collect();
            if gone.is_empty() {
                return;
            }
            gone.iter().for_each(|path| drop(self.wanted.remove(path)));
        }
    }

    fn entry(&mut self, dir: &OwnedFd, name: &str, path: &str, depth: usize) -> io::Result<()> {
        self.entries += 1;
        let wishes = self.view.wishes.clone();
        if self.entries > MAX_ENTRIES || depth > MAX_DEPTH || is_barred(path, &wishes) {
            return Ok(());
        }
        let facts = file::metadata_at(dir, name)?;
        match facts.kind {
            FileType::Directory if facts.mode & 0o005 == 0o005 => {
                let below = file::open_dir_at(dir, name)?;
                for name in file::names(&below)? {
                    if let Some(name) = name.to_str() {
                        self.entry(&below, name, &format!("{path}/{name}"), depth + 1).ok();
                    }
                }
            }
            FileType::Symlink if depth > 0 || is_taken_whole(path, &wishes) => {
                let to = rustix::fs::readlinkat(dir, name, Vec::new())?;
                if let Ok(to) = to.into_string()
                    && link_target(path, &to, &wishes).is_some()
                {
                    self.wanted.insert(path.to_owned(), (Shown::Link(to), None));
                }
            }
            FileType::RegularFile => self.file(dir, name, path, &wishes)?,
            _ => {}
        }
        Ok(())
    }

    fn file(&mut self, dir: &OwnedFd, name: &str, path: &str, wishes: &EtcSettings) -> io::Result<()> {
        let digests = self.view.brought.get(path);
        let is_whole = is_taken_whole(path, wishes);
        if digests.is_none() && !is_whole {
            return Ok(());
        }
        let fd = file::open_file_at(dir, name)?;
        // The facts of the open file, not of what had the name a moment ago.
        let facts = file::metadata(&fd)?;
        if facts.kind != FileType::RegularFile || facts.mode & 0o004 == 0 {
            return Ok(());
        }
        let now = stamp(&facts);
        let known = self.view.compared.get(path).filter(|(then, _)| *then == now);
        if known.is_some_and(|(_, is_brought)| !is_brought && !is_whole) {
            return Ok(());
        }
        self.bytes = self.bytes.saturating_add(usize::try_from(facts.size).unwrap_or(usize::MAX));
        if self.bytes > MAX_BYTES {
            return Ok(());
        }
        if known.is_some() && self.view.shown.get(path) == Some(&Shown::File(now)) {
            self.wanted.insert(path.to_owned(), (Shown::File(now), None));
            return Ok(());
        }
        let content = file::read_bounded(fd, MAX_FILE)?;
        if holds_private_key(&content) {
            return Ok(());
        }
        let is_brought = digests.is_some_and(|digests| digests.contains(&md5(&content)));
        self.view.compared.insert(path.to_owned(), (now, is_brought));
        if is_brought || is_whole {
            self.wanted.insert(path.to_owned(), (Shown::File(now), Some(content)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_of_ucf_is_shown_while_it_is_as_the_package_ships_it() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let root = temp.path().canonicalize().expect("real path");
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
            fs::write(path, text).expect("write");
        };
        let digest = |text: &str| md5(text.as_bytes());
        let (own, other) = ("memory_limit = 128M\n", "; as somebody answered ucf\n");
        write("etc/php/8.4/cli/php.ini", own);
        write("etc/php/8.4/cli/secret.ini", other);
        write("etc/php/8.4/cli/nobodys.ini", own);
        write("etc/php/8.4/cli/alien.ini", "; of another package\n");
        let packages = ["php8.4-cli", "php8.4-common"].map(|name| format!("Package: {name}\nSource: php8.4\n\n"));
        write("var/lib/dpkg/status", &(packages.concat() + "Package: alien\n"));
        // ucf's digest counts if a package of the same source ships a file with the same digest.
        let mut hashes =
            format!("{}  /etc/php/8.4/cli/php.ini\n{}  /etc/php/8.4/cli/secret.ini\n", digest(own), digest(other));
        hashes += &format!("{}  /etc/php/8.4/cli/alien.ini\n", digest("; of another package\n"));
        write("var/lib/dpkg/info/alien.md5sums", &format!("{}  usr/x\n", digest("; of another package\n")));
        write("var/lib/ucf/hashfile", &hashes);
        let owned = ["php", "secret", "alien"].map(|name| format!("php8.4-cli /etc/php/8.4/cli/{name}.ini\n"));
        write("var/lib/ucf/registry", &owned.concat());
        let shipped = format!("{}  usr/lib/php/8.4/php.ini-production.cli\n", digest(own));
        write("var/lib/dpkg/info/php8.4-common.md5sums", &shipped);
        fs::create_dir(root.join("runtime")).expect("mkdir");
        let runtime = file::open_dir(&root.join("runtime")).expect("opens");
        let mut view = EtcView::of(&root, &runtime, &EtcSettings::default()).expect("opens");
        let shown = root.join("runtime").join(VIEW).join("php/8.4/cli");
        let names = || {
            let names = fs::read_dir(&shown).map(|all| all.filter_map(|one| one.ok()?.file_name().into_string().ok()));
            names.map(|names| names.collect::<Vec<_>>()).unwrap_or_default()
        };
        assert_eq!(names(), ["php.ini"]);
        assert_eq!(fs::read_to_string(shown.join("php.ini")).expect("reads"), own);
        // The operator's own change may contain a secret.
        write("etc/php/8.4/cli/php.ini", "mysqli.default_pw = hunter2\n");
        view.look();
        assert_eq!(names(), [""; 0]);
    }
}
