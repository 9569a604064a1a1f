//! `/proc/PID/mountinfo`: the mounts that a process sees.

use super::{directory, malformed, read};
use bailiwick_types::MountFact;
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// The most bytes that are read of a mount table. A jail that may mount can hold `fs.mount-max` (100,000) mounts with long names.
const MAX_TABLE: usize = 32 << 20;

/// The mounts that a process sees below its root. Each mount comes after the one that it is mounted on, so the last of several
/// at one target is on top.
///
/// # Errors
/// As for [`status`](super::status()); `EFBIG` when the table is larger than 32 MiB.
pub fn mounts(pid: u32) -> io::Result<Vec<MountFact>> {
    mounts_at(directory(pid)?.as_fd())
}

fn mounts_at(process: BorrowedFd<'_>) -> io::Result<Vec<MountFact>> {
    parse_mounts(&read(process, "mountinfo", MAX_TABLE)?).ok_or_else(|| malformed("mountinfo"))
}

/// One row of a mount table, before the rows are arranged as a tree.
struct Row {
    id: u64,
    parent: u64,
    fact: MountFact,
}

/// Parses `/proc/PID/mountinfo` (`proc_pid_mountinfo(5)`).
#[must_use]
pub fn parse_mounts(text: &[u8]) -> Option<Vec<MountFact>> {
    let rows = String::from_utf8_lossy(text).lines().map(parse_row).collect::<Option<Vec<Row>>>()?;
    Some(arrange(rows))
}

fn parse_row(line: &str) -> Option<Row> {
    let mut fields = line.split(' ');
    let (id, parent) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let _device = fields.next()?;
    let (root, target, options) = (fields.next()?, fields.next()?, fields.next()?);
    // The optional fields end with a single hyphen.
    let mut propagation = Vec::new();
    loop {
        match fields.next()? {
            "-" => break,
            field => propagation.push(field.to_owned()),
        }
    }
    let (fs_type, _source) = (fields.next()?, fields.next()?);
    // A file system such as overlay may write spaces without an escape.
    let super_options = fields.collect::<Vec<_>>().join(" ");
    let list = |options: &str| options.split(',').filter(|option| !option.is_empty()).map(unescape).collect();
    let fact = MountFact {
        target: unescape(target),
        root: unescape(root),
        fs_type: unescape(fs_type),
        options: list(options),
        super_options: list(&super_options),
        propagation,
        covered: false,
    };
    Some(Row { id, parent, fact })
}

/// Puts each mount after the one that it is mounted on, and marks those that no path leads to.
///
/// The kernel lists mounts by age. A mount that was made detached may be older than the one that it was put on.
fn arrange(rows: Vec<Row>) -> Vec<MountFact> {
    let ids: HashSet<u64> = rows.iter().map(|row| row.id).collect();
    let mut children: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut waiting: Vec<(usize, bool)> = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        if row.parent != row.id && ids.contains(&row.parent) {
            children.entry(row.parent).or_default().push(index);
        } else {
            waiting.push((index, false));
        }
    }
    waiting.reverse();
    let mut order = Vec::with_capacity(rows.len());
    while let Some((index, below_cover)) = waiting.pop() {
        let Some(row) = rows.get(index) else { continue };
        let mounted_on_it = children.remove(&row.id).unwrap_or_default();
        let targets: HashSet<&str> = mounted_on_it.iter().map(|child| rows[*child].fact.target.as_str()).collect();
        order.push((index, below_cover || targets.contains(row.fact.target.as_str())));
        for child in mounted_on_it.into_iter().rev() {
            // A sibling on a directory above hides this mount. The root of the parent mount is one of these directories.
            let hidden = above(&rows[child].fact.target, &row.fact.target).any(|path| targets.contains(path));
            waiting.push((child, below_cover || hidden));
        }
    }
    let mut facts: Vec<Option<MountFact>> = rows.into_iter().map(|row| Some(row.fact)).collect();
    order
        .into_iter()
        .filter_map(|(index, covered)| Some(MountFact { covered, ..facts.get_mut(index)?.take()? }))
        .collect()
}

/// The directories above `path`, from the nearest up to and with `root`.
fn above<'a>(path: &'a str, root: &'a str) -> impl Iterator<Item = &'a str> {
    let parent = |path: &&'a str| match path.rfind('/') {
        Some(0) if path.len() > 1 => Some("/"),
        Some(at) if at > 0 => Some(&path[..at]),
        _ => None,
    };
    std::iter::successors(parent(&path), parent).take_while(|path| path.len() >= root.len())
}

/// Undoes the octal escapes of the kernel's `mangle_path`: `\040` is a space.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while let Some(&byte) = bytes.get(index) {
        let digits = bytes.get(index + 1..index + 4).filter(|_| byte == b'\\');
        let value = digits.and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| {
            digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| u8::from_str_radix(digits, 8).ok())?
        });
        out.push(value.unwrap_or(byte));
        index += if value.is_some() { 4 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_mount_table_with_escapes_and_propagation() {
        let text = b"27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw,discard\n\
            30 27 0:5 /x\\040y /a\\011b\\134c ro,nosuid,idmapped - tmpfs none rw,size=4k\n";
        let mounts = parse_mounts(text).expect("parses");
        assert_eq!(mounts[0].propagation, ["shared:1", "master:2"]);
        assert_eq!(mounts[0].super_options, ["rw", "discard"]);
        assert_eq!((mounts[1].root.as_str(), mounts[1].target.as_str()), ("/x y", "/a\tb\\c"));
        assert_eq!(mounts[1].options, ["ro", "nosuid", "idmapped"]);
        assert_eq!(parse_mounts(b"27 1 254:0 / / rw"), None);
        assert_eq!(parse_mounts(b"27 1 254:0 / / rw - ext4"), None);
    }

    #[test]
    fn escapes_that_are_none_are_kept() {
        for text in ["\\", "\\0", "\\04", "\\999", "\\04x", "a\\"] {
            assert_eq!(unescape(text), text);
        }
        assert_eq!(unescape("\\134040"), "\\040");
    }

    fn arranged(table: &[(u64, u64, &str)]) -> Vec<(String, bool)> {
        let lines =
            table.iter().map(|(id, parent, target)| format!("{id} {parent} 0:1 / {target} rw - tmpfs none rw\n"));
        let mounts = parse_mounts(lines.collect::<String>().as_bytes()).expect("parses");
        mounts.into_iter().map(|mount| (mount.target, mount.covered)).collect()
    }

    #[test]
    fn hidden_mounts_are_marked_in_any_order_of_rows() {
        let rows = arranged(&[(3, 2, "/a"), (5, 2, "/a/b"), (7, 5, "/a/b/c"), (2, 1, "/"), (4, 2, "/ab")]);
        assert_eq!(
            rows,
            [("/", false), ("/a", false), ("/a/b", true), ("/a/b/c", true), ("/ab", false)]
                .map(|(target, covered)| (target.to_owned(), covered))
        );
        let stacked = arranged(&[(9, 3, "/a"), (3, 2, "/a"), (4, 3, "/a/b"), (2, 1, "/")]);
        assert_eq!(
            stacked,
            [("/", false), ("/a", true), ("/a", false), ("/a/b", true)]
                .map(|(target, covered)| (target.to_owned(), covered))
        );
        assert_eq!(arranged(&[(2, 1, "/"), (3, 2, "/")]), [("/".to_owned(), true), ("/".to_owned(), false)]);
    }

    proptest! {
        #[test]
        fn no_tree_of_mounts_loses_or_doubles_a_row(
            rows in proptest::collection::vec((0u64..12, 0u64..12, "(/[ab]{1,2}){1,3}"), 0..12)
        ) {
            let mut ids = HashSet::new();
            // Numbers are unique in a real table, and a parent always leads to the root.
            let rows: Vec<_> = rows.into_iter().filter(|(id, ..)| ids.insert(*id)).map(|(id, parent, target)| {
                (id, if parent < id { parent } else { 100 }, target)
            }).collect();
            let table: Vec<(u64, u64, &str)> = rows.iter().map(|(id, parent, target)| (*id, *parent, target.as_str())).collect();
            let mut got: Vec<String> = arranged(&table).into_iter().map(|(target, _)| target).collect();
            let mut want: Vec<String> = rows.into_iter().map(|(_, _, target)| target).collect();
            got.sort();
            want.sort();
            prop_assert_eq!(got, want);
        }
    }
}
