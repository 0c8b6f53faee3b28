use std::io::Cursor;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::*;
use crate::runtime::image::samples::{Member, Tar, checksum, gzip, pax_records, zstd};

/// In tests the binary at /proc/self/exe is the test harness: one of its tests plays the role.
pub(super) fn play_role(command: &mut Command) {
    command
        .args([
            "--exact",
            "runtime::image::unpack::tests::plays_the_confined_process",
            "--nocapture",
            "--test-threads=1",
        ])
        // Not the first thread here, as it is in earnest: the allocator would give memory of other threads back by the rules
        // of a file that it may not open (glibc's check_may_shrink_heap).
        .env("MALLOC_ARENA_MAX", "1")
        .env("JOEY_TEST_ROLE", confine::ROLE);
}

#[test]
fn plays_the_confined_process() {
    if std::env::var_os("JOEY_TEST_ROLE").is_some_and(|role| role == confine::ROLE) {
        // Not a return: the harness would go on printing and calling what is forbidden by now.
        confine::run_and_exit();
    }
}

/// A store beside a canary that no archive may touch.
struct Place {
    root: PathBuf,
    disk: Disk,
}

impl Drop for Place {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.root).unwrap();
    }
}

fn place() -> Place {
    let root = std::env::temp_dir().join(format!("joey-unpack-{}", crate::sys::clock::uuid()));
    let disk = Disk::open(&root.join("store")).unwrap();
    std::fs::write(root.join("canary"), "canary").unwrap();
    Place { root, disk }
}

impl Place {
    fn unpack(&self, stream: &[u8], tar: &[u8]) -> Result<PathBuf, UnpackError> {
        self.unpack_within(stream, tar, &Limits::default())
    }

    fn unpack_within(
        &self,
        stream: &[u8],
        tar: &[u8],
        limits: &Limits,
    ) -> Result<PathBuf, UnpackError> {
        let expected = Expected {
            digest: Some(Digest::of(stream)),
            size_bytes: stream.len() as u64,
            diff_id: Digest::of(tar),
        };
        layer(&self.disk, &mut Cursor::new(stream), &expected, limits)?;
        Ok(self.disk.layer_root(&expected.diff_id))
    }

    fn assert_untouched(&self, what: &str) {
        let names: Vec<_> = std::fs::read_dir(&self.root)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names.len(), 2, "{what}: {names:?}");
        let canary = self.root.join("canary");
        assert_eq!(std::fs::read_to_string(&canary).unwrap(), "canary", "{what}");
        assert_eq!(canary.metadata().unwrap().nlink(), 1, "{what}");
    }

    fn assert_empty(&self, what: &str) {
        for directory in ["layers", "work"] {
            let mut entries = std::fs::read_dir(self.root.join("store").join(directory)).unwrap();
            assert!(entries.next().is_none(), "{what} left something in {directory}");
        }
    }
}

/// Every path below `root` with what it is, sorted.
fn listing(root: &Path) -> Vec<String> {
    fn walk(root: &Path, path: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(path).unwrap() {
            let entry = entry.unwrap().path();
            let metadata = entry.symlink_metadata().unwrap();
            let name =
                String::from_utf8_lossy(entry.strip_prefix(root).unwrap().as_os_str().as_bytes())
                    .into_owned();
            let kind = metadata.file_type();
            let mut text = if kind.is_dir() {
                format!("{name}/")
            } else if kind.is_symlink() {
                format!("{name} -> {}", std::fs::read_link(&entry).unwrap().display())
            } else if kind.is_char_device() && metadata.rdev() == 0 {
                format!("{name} whiteout")
            } else if kind.is_file() {
                format!("{name}={}", std::fs::read_to_string(&entry).unwrap())
            } else {
                format!("{name} node")
            };
            let mut value = [0; 4];
            let attribute = "trusted.overlay.opaque";
            if rustix::fs::lgetxattr(&entry, attribute, &mut value[..]).is_ok() {
                text.push_str(" opaque");
            }
            found.push(text);
            if kind.is_dir() {
                walk(root, &entry, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found.sort();
    found
}

fn t() -> Tar {
    Tar::default()
}

fn member<'a>(name: &'a [u8], kind: u8) -> Member<'a> {
    Member { name, kind, ..Member::default() }
}

#[test]
fn hostile_archives_are_refused_by_name_and_leave_nothing() {
    let x = &b"x"[..];
    let big = vec![b'a'; 2 << 20];
    let deep = vec!["d"; 300].join("/");
    let broken_sum = {
        let mut header = member(b"a", b'0').header();
        header[0] = b'b';
        header
    };
    let patched = |at: usize, bytes: &[u8]| {
        let mut header = member(b"a", b'0').header();
        header[at..at + bytes.len()].copy_from_slice(bytes);
        checksum(&mut header);
        header
    };
    let xattrs: Vec<u8> = vec![b'v'; 70_000];
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        // B1: out of the root.
        ("climb", t().file("../canary", x).end(), "contains '..'"),
        ("climb inside", t().directory("a").file("a/../../canary", x).end(), "contains '..'"),
        ("climb at the end", t().directory("a/..").end(), "contains '..'"),
        ("climb by PAX", t().pax(&[(b"path", b"../canary")]).file("a", x).end(), "contains '..'"),
        (
            "climb by long name",
            t().extended(b'L', b"../canary\0").file("a", x).end(),
            "contains '..'",
        ),
        (
            "climb by prefix",
            t().member(&Member { prefix: b"..", size: 1, ..member(b"canary", b'0') }, x).end(),
            "contains '..'",
        ),
        ("through link", t().symlink("l", "/").file("l/canary", x).end(), "below something"),
        (
            "through relative link",
            t().symlink("l", "../../../..").file("l/canary", x).end(),
            "below something",
        ),
        (
            "through inner link",
            t().directory("d").symlink("l", "d").file("l/x", x).end(),
            "below something",
        ),
        (
            "through link chain",
            t().symlink("a", "b").symlink("b", "/").file("a/c/x", x).end(),
            "below something",
        ),
        ("directory through link", t().symlink("l", "/").directory("l/d").end(), "below something"),
        (
            "whiteout through link",
            t().symlink("l", "/").file("l/.wh.canary", b"").end(),
            "below something",
        ),
        (
            "opaque through link",
            t().symlink("l", "/").file("l/.wh..wh..opq", b"").end(),
            "below something",
        ),
        ("hard link out", t().hardlink("h", "../canary").end(), "contains '..'"),
        (
            "hard link to absolute",
            t().hardlink("h", "/etc/passwd").end(),
            "not a file of this layer",
        ),
        (
            "hard link through link",
            t().symlink("l", "/etc").hardlink("h", "l/passwd").end(),
            "not a file of this layer",
        ),
        (
            "hard link by PAX",
            t().pax(&[(b"linkpath", b"../../canary")]).hardlink("h", "a").end(),
            "contains '..'",
        ),
        (
            "hard link to itself",
            t().file("a", x).hardlink("a", "a").end(),
            "not a file of this layer",
        ),
        (
            "hard link to directory",
            t().directory("d").hardlink("h", "d").end(),
            "not a file of this layer",
        ),
        (
            "hard link to whiteout",
            t().file(".wh.a", b"").hardlink("h", "a").end(),
            "not a file of this layer",
        ),
        (
            "hard link over its own parent",
            t().directory("d").file("d/f", x).hardlink("d", "d/f").end(),
            "not a file of this layer",
        ),
        ("file below file", t().file("a", x).file("a/b", x).end(), "below something"),
        ("file for the root", t().file("./", x).file("/", x).end(), "must not have content"),
        ("link for the root", t().symlink(".", "/etc").end(), "is empty"),
        ("NUL in PAX path", t().pax(&[(b"path", b"a\0b")]).file("a", x).end(), "NUL"),
        ("NUL in long name", t().extended(b'L', b"a\0b\0").file("a", x).end(), "NUL"),
        ("NUL in PAX link", t().pax(&[(b"linkpath", b"a\0b")]).symlink("a", "c").end(), "NUL"),
        ("empty link target", t().symlink("a", "").end(), "is empty"),
        // B2: what parsers disagree about.
        ("checksum", t().raw(&broken_sum).end(), "checksum"),
        ("negative size", t().raw(&patched(124, &[0xff; 12])).end(), "field size"),
        ("letters in size", t().raw(&patched(124, b"00000000x1\0")).end(), "field size"),
        (
            "huge size",
            t().raw(&patched(124, &[0x80, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])).end(),
            "field size",
        ),
        (
            "size beyond the archive",
            t().member(&Member { size: 1 << 40, ..member(b"a", b'0') }, x).end(),
            "middle of an entry",
        ),
        ("truncated", t().file("a", &big).without_end()[..1000].to_vec(), "middle of an entry"),
        ("half a header", t().file("a", x).without_end()[..700].to_vec(), "middle of an entry"),
        (
            "PAX record twice",
            t().pax(&[(b"path", b"a"), (b"path", b"b")]).file("c", x).end(),
            "given twice",
        ),
        (
            "PAX header twice",
            t().pax(&[(b"path", b"a")]).pax(&[(b"path", b"b")]).file("c", x).end(),
            "same field",
        ),
        (
            "PAX and long name",
            t().pax(&[(b"path", b"a")]).extended(b'L', b"b\0").file("c", x).end(),
            "same field",
        ),
        (
            "long name twice",
            t().extended(b'L', b"a\0").extended(b'L', b"b\0").file("c", x).end(),
            "same field",
        ),
        ("PAX length lies", t().extended(b'x', b"99 path=a\n").file("c", x).end(), "malformed"),
        ("PAX without newline", t().extended(b'x', b"9 path=ab").file("c", x).end(), "malformed"),
        ("PAX without key", t().extended(b'x', b"5 =ab\n").file("c", x).end(), "malformed"),
        ("PAX negative size", t().pax(&[(b"size", b"-1")]).file("c", x).end(), "field size"),
        (
            "PAX sparse",
            t().pax(&[(b"GNU.sparse.major", b"1")]).file("c", x).end(),
            "GNU.sparse.major",
        ),
        ("GNU sparse", t().member(&member(b"a", b'S'), b"").end(), "'S' is not supported"),
        ("unknown type", t().member(&member(b"a", b'Z'), b"").end(), "'Z' is not supported"),
        (
            "global PAX path",
            t().extended(b'g', &pax_records(&[(b"path", b"../x")])).file("a", x).end(),
            "global PAX",
        ),
        ("PAX without entry", t().pax(&[(b"path", b"a")]).end(), "no entry"),
        ("PAX too large", t().extended(b'x', &big).file("a", x).end(), "1048576"),
        (
            "second archive behind",
            [t().file("a", x).end(), t().file("b", x).end()].concat(),
            "data after the end",
        ),
        (
            "directory with content",
            t().member(&Member { size: 1, ..member(b"a", b'5') }, x).end(),
            "must not have content",
        ),
        (
            "link with content",
            t().member(&Member { size: 1, link: b"b", ..member(b"a", b'2') }, x).end(),
            "must not have content",
        ),
        (
            "hard link with content",
            t().file("b", x).member(&Member { size: 1, link: b"b", ..member(b"a", b'1') }, x).end(),
            "must not have content",
        ),
        ("nobody's uid", t().pax(&[(b"uid", b"4294967295")]).file("a", x).end(), "field uid"),
        ("device out of range", t().device("a", b'3', (1 << 12, 0)).end(), "field device"),
        ("text", b"this is not a tar, but long enough to be a block".repeat(20), "not a number"),
        // B3: whiteouts.
        ("whiteout of nothing", t().file(".wh.", b"").end(), "malformed"),
        ("whiteout of here", t().file(".wh..", b"").end(), "malformed"),
        ("whiteout of the parent", t().file(".wh...", b"").end(), "malformed"),
        ("whiteout of a whiteout", t().file(".wh..wh.x", b"").end(), "malformed"),
        ("whiteout as directory", t().directory(".wh.x").end(), "malformed"),
        ("whiteout as link", t().symlink(".wh.x", "/").end(), "malformed"),
        ("whiteout with content", t().file(".wh.x", x).end(), "malformed"),
        ("below a whiteout", t().file(".wh.x/y", b"").end(), "malformed"),
        ("raw whiteout", t().device("a", b'3', (0, 0)).end(), "raw overlayfs whiteout"),
        // B4, B6: sizes.
        (
            "giant attribute",
            t().pax(&[(b"SCHILY.xattr.user.a", &xattrs)]).file("a", x).end(),
            "65536",
        ),
        ("deep", t().extended(b'L', deep.as_bytes()).file("a", x).end(), "deeper than"),
        ("long name", t().extended(b'L', &[b'n'; 300]).file("a", x).end(), "limit of 255"),
        (
            "long path",
            t().extended(b'L', "abc/".repeat(1100).as_bytes()).file("a", x).end(),
            "limit of 4096",
        ),
        ("not gzip", [&[0x1f, 0x8b][..], &[7; 600]].concat(), "cannot decompress"),
        ("not zstd", [&[0x28, 0xb5, 0x2f, 0xfd][..], &[7; 600]].concat(), "cannot decompress"),
        ("gzip cut short", gzip(&t().file("a", &big).end())[..200].to_vec(), "cannot decompress"),
    ];
    assert!(cases.len() >= 60);
    let place = place();
    for (what, tar, error) in cases {
        let refused = match place.unpack(&tar, &tar) {
            Err(refused) => refused.to_string(),
            Ok(root) => panic!("{what} was unpacked: {:?}", listing(&root)),
        };
        assert!(refused.contains(error), "{what}: {refused}");
        place.assert_untouched(what);
        place.assert_empty(what);
    }
}

#[test]
fn unusual_archives_become_what_they_mean() {
    let x = &b"x"[..];
    let place = place();
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("nothing", vec![], &[]),
        ("absolute names", t().file("/a", x).end(), &["a=x"]),
        (
            "PAX size over header size",
            t().pax(&[(b"size", b"1")])
                .raw(&Member { size: 0, ..member(b"a", b'0') }.header())
                .raw(&[&b"y"[..], &[0; 511]].concat())
                .file("b", x)
                .end(),
            &["a=y", "b=x"],
        ),
        (
            "long names",
            t().extended(b'L', b"long\0").extended(b'K', b"target\0").symlink("s", "t").end(),
            &["long -> target"],
        ),
        (
            "ustar prefix",
            t().member(&Member { prefix: b"p", size: 1, ..member(b"a", b'0') }, x).end(),
            &["p/", "p/a=x"],
        ),
        (
            "no prefix in GNU",
            t().member(
                &Member { prefix: b"12345", magic: b"ustar  \0", size: 1, ..member(b"a", b'0') },
                x,
            )
            .end(),
            &["a=x"],
        ),
        ("old directory", t().member(&member(b"d/", 0), b"").end(), &["d/"]),
        ("no end mark", t().file("a", x).without_end(), &["a=x"]),
        ("later wins", t().directory("a").file("a/b", x).file("a", b"y").end(), &["a=y"]),
        (
            "directory over link",
            t().symlink("a", "/").directory("a").file("a/canary", x).end(),
            &["a/", "a/canary=x"],
        ),
        ("hard link", t().file("a", x).hardlink("b", "a").end(), &["a=x", "b=x"]),
        (
            "hard link to a link",
            t().symlink("a", "/etc/passwd").hardlink("b", "a").end(),
            &["a -> /etc/passwd", "b -> /etc/passwd"],
        ),
        (
            "whiteout",
            t().file(".wh.a", b"").directory("d").file("d/.wh.b", b"").end(),
            &["a whiteout", "d/", "d/b whiteout"],
        ),
        (
            "opaque",
            t().directory("d").file("d/.wh..wh..opq", b"").file("d/a", x).end(),
            &["d/ opaque", "d/a=x"],
        ),
        (
            "whiteout, then a directory",
            t().file(".wh.a", b"").directory("a").file("a/b", x).end(),
            &["a/ opaque", "a/b=x"],
        ),
        (
            "a directory, then its whiteout",
            t().directory("a").file("a/b", x).file(".wh.a", b"").end(),
            &["a/ opaque", "a/b=x"],
        ),
        (
            "whiteout, then an implied directory",
            t().file(".wh.a", b"").file("a/b", x).end(),
            &["a/ opaque", "a/b=x"],
        ),
        ("whiteout, then a file", t().file(".wh.a", b"").file("a", x).end(), &["a=x"]),
        ("a file, then its whiteout", t().file("a", x).file(".wh.a", b"").end(), &["a=x"]),
        (
            "overlay attributes",
            t().pax(&[
                (b"SCHILY.xattr.trusted.overlay.redirect", b"/.."),
                (b"SCHILY.xattr.trusted.overlay.opaque", b"y"),
                (b"SCHILY.xattr.user.overlay.opaque", b"y"),
                (b"SCHILY.xattr.security.selinux", b"s"),
            ])
            .directory("d")
            .end(),
            &["d/"],
        ),
        (
            "nodes",
            t().device("f", b'6', (0, 0)).device("c", b'3', (1, 3)).device("b", b'4', (8, 0)).end(),
            &["b node", "c node", "f node"],
        ),
        (
            "git-archive",
            t().extended(b'g', &pax_records(&[(b"comment", b"abc")])).file("a", x).end(),
            &["a=x"],
        ),
    ];
    for (what, tar, expected) in cases {
        let root = place.unpack(&tar, &tar).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(listing(&root), expected, "{what}");
        crate::runtime::image::verify::layer(&place.disk, &Digest::of(&tar))
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        place.assert_untouched(what);
    }
}

#[test]
fn metadata_survives() {
    let place = place();
    let capability = [1u8, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let tar = t()
        .pax(&[
            (b"SCHILY.xattr.security.capability", &capability),
            (b"SCHILY.xattr.user.note", b"hi"),
            (b"mtime", b"1234.5"),
        ])
        .member(&Member { mode: 0o4755, uid: 1000, size: 1, ..member(b"su", b'0') }, b"x")
        .member(&Member { mode: 0o1777, ..member(b"tmp", b'5') }, b"")
        .file("tmp/later", b"")
        .end();
    let root = place.unpack(&gzip(&tar), &tar).unwrap();
    let su = root.join("su").metadata().unwrap();
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid()), (0o4755, 1000, 0));
    assert_eq!((su.mtime(), su.mtime_nsec()), (1234, 500_000_000));
    let tmp = root.join("tmp").metadata().unwrap();
    assert_eq!((tmp.mode() & 0o7777, tmp.mtime()), (0o1777, 1_700_000_000));
    let mut value = [0; 64];
    let length =
        rustix::fs::getxattr(root.join("su"), "security.capability", &mut value[..]).unwrap();
    assert_eq!(value[..length], capability);
}

#[test]
fn bombs_meet_their_limit() {
    let place = place();
    let tight = Limits {
        uncompressed_bytes: 64 << 20,
        ratio: 20,
        slack_bytes: 1 << 20,
        entries: EntryLimits { entries: 50, depth: 8 },
    };
    let zeros = t().file("zeros", &vec![0; 16 << 20]).end();
    let many = (0..60).fold(t(), |tar, n| tar.file(&format!("f{n}"), b"")).end();
    let deep = t().file("1/2/3/4/5/6/7/8/9", b"").end();
    // A zstd frame that wants a window of 2 GiB: RFC 8878, window descriptor (21 << 3).
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00];
    for (what, stream, tar, error) in [
        ("gzip bomb", gzip(&zeros), &zeros, "bytes uncompressed"),
        ("zstd bomb", zstd(&zeros), &zeros, "bytes uncompressed"),
        ("entries", many.clone(), &many, "more than 50 entries"),
        ("depth", deep.clone(), &deep, "deeper than"),
        ("zstd window", window.to_vec(), &zeros, "cannot decompress"),
    ] {
        let refused = place.unpack_within(&stream, tar, &tight).unwrap_err().to_string();
        assert!(refused.contains(error), "{what}: {refused}");
        place.assert_empty(what);
    }
}

#[test]
fn digests_and_sizes_are_verified() {
    let place = place();
    let tar = t().file("a", b"x").end();
    let packed = gzip(&tar);
    let other = Digest::of(b"other");
    let good = Expected {
        digest: Some(Digest::of(&packed)),
        size_bytes: packed.len() as u64,
        diff_id: Digest::of(&tar),
    };
    for (expected, error) in [
        (Expected { digest: Some(other.clone()), ..good.clone() }, "digest mismatch"),
        (Expected { diff_id: other, ..good.clone() }, "diffID mismatch"),
        (Expected { size_bytes: good.size_bytes + 1, ..good.clone() }, "size mismatch"),
        (Expected { size_bytes: good.size_bytes - 1, ..good.clone() }, "size mismatch"),
    ] {
        let source = &mut Cursor::new(&packed);
        let refused = layer(&place.disk, source, &expected, &Limits::default()).unwrap_err();
        assert!(refused.to_string().contains(error), "{refused}");
        place.assert_empty(error);
    }
    layer(&place.disk, &mut Cursor::new(&packed), &good, &Limits::default()).unwrap();
}

/// Gives a first piece of a file, then kills the process that unpacks it, then goes on.
struct Killing<'a> {
    start: Vec<u8>,
    store: &'a Path,
    killed: bool,
}

impl Read for Killing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if !self.start.is_empty() {
            let take = buffer.len().min(self.start.len());
            buffer[..take].copy_from_slice(&self.start[..take]);
            self.start.drain(..take);
            return Ok(take);
        }
        if !std::mem::replace(&mut self.killed, true) {
            kill_unpacker(self.store);
        }
        buffer.fill(0);
        Ok(buffer.len())
    }
}

/// Kills our child whose root is a layer of this store, once it is confined.
fn kill_unpacker(store: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let marker = store.join("work").display().to_string();
    while Instant::now() < deadline {
        for entry in std::fs::read_dir("/proc").unwrap() {
            let path = entry.unwrap().path();
            let Ok(pid) = path.file_name().unwrap().to_string_lossy().parse::<i32>() else {
                continue;
            };
            let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
            let parent = format!("PPid:\t{}\n", std::process::id());
            // In the harness the thread that plays the role is the confined one.
            let tasks = std::fs::read_dir(path.join("task")).into_iter().flatten().flatten();
            let is_confined = tasks.into_iter().any(|task| {
                std::fs::read_to_string(task.path().join("mountinfo"))
                    .is_ok_and(|mounts| mounts.contains(&marker))
            });
            if status.contains(&parent) && is_confined {
                let pid = nix::unistd::Pid::from_raw(pid);
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
                return;
            }
        }
        std::thread::yield_now();
    }
    panic!("the unpacking process was not found");
}

#[test]
fn a_killed_unpacker_leaves_nothing_and_the_next_try_works() {
    let place = place();
    let start = t().member(&Member { size: 1 << 30, ..member(b"a", b'0') }, b"x").without_end();
    let store = place.root.join("store");
    let mut source = Killing { start, store: &store, killed: false };
    let expected =
        Expected { digest: None, size_bytes: 1 << 31, diff_id: Digest::of(b"never reached") };
    let refused = layer(&place.disk, &mut source, &expected, &Limits::default()).unwrap_err();
    assert_eq!(
        refused,
        UnpackError::Process("signal: 9 (SIGKILL)".into()),
        "the process's end is the reason"
    );
    place.assert_empty("killed");
    let tar = t().file("a", b"x").end();
    place.unpack(&tar, &tar).unwrap();
}
