use std::io::Cursor;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::samples::{Tar, docker_archive, gzip, oci_archive, zstd};
use super::*;

/// A store in a directory of its own, gone with the test.
pub(super) struct Place {
    pub root: PathBuf,
    pub images: Images,
}

pub(super) fn place() -> Place {
    let root = std::env::temp_dir().join(format!("joey-image-{}", crate::sys::clock::uuid()));
    let images = Images::open(&root, Registries::default()).unwrap();
    Place { root, images }
}

impl Drop for Place {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.root).unwrap();
    }
}

impl Place {
    pub fn import(&self, archive: Vec<u8>) -> Result<Vec<Image>, ImageError> {
        runtime().block_on(self.images.import(Box::new(Cursor::new(archive))))
    }

    /// Everything the store holds but its fixed directories and locks.
    pub fn content(&self) -> Vec<String> {
        let mut found = Vec::new();
        for directory in ["names", "images", "configs", "layers", "pins", "work", "empty"] {
            for entry in std::fs::read_dir(self.root.join(directory)).unwrap() {
                let entry = entry.unwrap();
                found.push(format!("{directory}/{}", entry.file_name().display()));
            }
        }
        found
    }
}

pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn layers() -> Vec<Vec<u8>> {
    vec![
        Tar::default()
            .directory("etc")
            .file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
            .file("etc/gone", b"gone")
            .directory("opt")
            .file("opt/old", b"old")
            .end(),
        Tar::default()
            .directory("etc")
            .file("etc/.wh.gone", b"")
            .symlink("etc/link", "/etc/../etc/./passwd")
            .symlink("etc/loop", "loop")
            .symlink("etc/up", "../../../../etc/passwd")
            .directory("opt")
            .file("opt/.wh..wh..opq", b"")
            .file("opt/new", b"new")
            .end(),
    ]
}

#[test]
fn both_kinds_of_archive_arrive_in_every_compression() {
    let run = serde_json::json!({"Entrypoint": ["/x"], "Env": ["A=b"], "User": "1:2"});
    let docker = docker_archive("kangaroo-backend:1.14.2", &layers(), &run);
    let archives = [
        docker.clone(),
        gzip(&docker),
        zstd(&docker),
        oci_archive("kangaroo-backend:1.14.2", &layers(), gzip, &run),
        oci_archive("kangaroo-backend:1.14.2", &layers(), zstd, &run),
        gzip(&oci_archive("kangaroo-backend:1.14.2", &layers(), <[u8]>::to_vec, &run)),
    ];
    for (at, archive) in archives.into_iter().enumerate() {
        let place = place();
        let images = place.import(archive).unwrap_or_else(|e| panic!("{at}: {e}"));
        assert_eq!(images.len(), 1);
        let image = &images[0];
        assert_eq!(image.names, ["docker.io/library/kangaroo-backend:1.14.2"]);
        assert_eq!(image.config.entrypoint, ["/x"]);
        assert_eq!(image.config.env, ["A=b"]);
        assert_eq!(image.config.user, "1:2");
        assert_eq!(image.created.as_deref(), Some("2026-01-02T03:04:05Z"));
        assert_eq!(image.digests.len(), usize::from(at >= 3));
        assert_eq!(image.layers.len(), 2);
        for reference in [
            "kangaroo-backend:1.14.2",
            "docker.io/library/kangaroo-backend:1.14.2",
            &image.id,
            &image.id[7..],
            &image.id[7..19],
        ] {
            let found = place.images.find(reference).unwrap();
            assert_eq!(found.as_ref(), Some(image), "{reference}");
        }
        for digest in &image.digests {
            assert_eq!(place.images.find(digest).unwrap().as_ref(), Some(image));
        }
        assert_eq!(place.images.find("kangaroo-backend").unwrap(), None);
        assert_eq!(place.images.list().unwrap(), images);
    }
}

#[test]
fn files_are_read_as_the_container_would_see_them() {
    let place = place();
    let archive = docker_archive("x:1", &layers(), &serde_json::json!({}));
    let image = place.import(archive).unwrap().remove(0);
    let read = |path: &str| {
        place
            .images
            .read_file(&image, path, 1000)
            .unwrap()
            .map(|content| String::from_utf8(content).unwrap())
    };
    let passwd = Some("root:x:0:0:root:/root:/bin/sh\n".to_owned());
    assert_eq!(read("/etc/passwd"), passwd);
    assert_eq!(read("etc/link"), passwd);
    assert_eq!(read("/etc/up"), passwd);
    assert_eq!(read("/../../etc/passwd"), passwd);
    assert_eq!(read("/opt/new"), Some("new".to_owned()));
    for absent in ["/etc/gone", "/opt/old", "/etc", "/", "/etc/loop", "/etc/passwd/x", "/no"] {
        assert_eq!(read(absent), None, "{absent}");
    }
    assert!(place.images.read_file(&image, "/etc/passwd", 5).is_err());
    let whiteout = image.layers[0].join("etc/gone").symlink_metadata().unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
}

#[test]
fn removing_the_last_name_leaves_nothing() {
    let place = place();
    let archive = oci_archive("x:1", &layers(), gzip, &serde_json::json!({}));
    let image = place.import(archive).unwrap().remove(0);
    place.images.tag("x:1", "y:2").unwrap();
    place.images.remove("x:1").unwrap();
    assert_eq!(place.images.find("x:1").unwrap(), None);
    assert!(place.images.find("y:2").unwrap().is_some());
    place.images.pin("pod-1", &image).unwrap();
    place.images.remove("y:2").unwrap();
    assert_eq!(place.images.list().unwrap().len(), 1, "pinned");
    assert!(image.layers[0].is_dir());
    place.images.unpin("pod-1").unwrap();
    assert_eq!(place.content(), Vec::<String>::new());
    assert_eq!(place.images.remove("y:2"), Err(ImageError::Absent { name: "y:2".into() }));
}

#[test]
fn damage_is_found_and_named() {
    let place = place();
    let archive = oci_archive("x:1", &layers(), gzip, &serde_json::json!({}));
    let image = place.import(archive).unwrap().remove(0);
    place.images.verify(&image).unwrap();

    let file = image.layers[1].join("etc/passwd");
    let text = std::fs::read(&file).unwrap();
    let mut flipped = text.clone();
    flipped[3] ^= 1;
    std::fs::write(&file, &flipped).unwrap();
    let found = place.images.verify(&image).unwrap_err().to_string();
    assert!(found.contains("etc/passwd has other content"), "{found}");
    std::fs::write(&file, &text).unwrap();
    place.images.verify(&image).unwrap();
    std::fs::write(image.layers[0].join("etc/extra"), "").unwrap();
    assert!(place.images.verify(&image).unwrap_err().to_string().contains("etc/extra"));
    std::fs::remove_file(image.layers[0].join("etc/extra")).unwrap();
    std::fs::remove_file(image.layers[0].join("opt/new")).unwrap();
    assert!(place.images.verify(&image).unwrap_err().to_string().contains("opt/new is missing"));

    // Any flipped bit in a record or config is an error or an absence, never another image.
    for directory in ["names", "images", "configs"] {
        for entry in std::fs::read_dir(place.root.join(directory)).unwrap() {
            let path = entry.unwrap().path();
            let good = std::fs::read(&path).unwrap();
            for at in (0..good.len() * 8).step_by(7) {
                let mut bad = good.clone();
                bad[at / 8] ^= 1 << (at % 8);
                std::fs::write(&path, &bad).unwrap();
                if let Ok(Some(found)) = place.images.find("x:1") {
                    panic!("{} bit {at}: {found:?}", path.display());
                }
                Images::open(&place.root, Registries::default()).unwrap();
            }
            std::fs::write(&path, &good).unwrap();
        }
    }
    assert!(place.images.find("x:1").unwrap().is_some());
}

#[test]
fn what_a_crash_left_is_gone_after_opening() {
    let place = place();
    let archive = oci_archive("x:1", &layers(), gzip, &serde_json::json!({}));
    let image = place.import(archive).unwrap().remove(0);
    for path in ["work/half/root/etc", "layers/0123/root"] {
        std::fs::create_dir_all(place.root.join(path)).unwrap();
    }
    for path in ["work/half/root/etc/f", "work/x.record", "configs/0123"] {
        std::fs::write(place.root.join(path), "x").unwrap();
    }
    let reopened = Images::open(&place.root, Registries::default()).unwrap();
    assert_eq!(reopened.find("x:1").unwrap(), Some(image));
    let left = place.content();
    assert_eq!(left.len(), 6, "two names, image, config, two layers: {left:?}");
}

#[test]
fn bad_archives_are_refused_whole() {
    let place = place();
    let run = serde_json::json!({});
    let good = Tar::default();
    let manifest = |text: &str| Tar::default().file("manifest.json", text.as_bytes()).end();
    let cases = [
        (good.clone().end(), "neither index.json"),
        (vec![], "neither index.json"),
        (manifest("[]"), "no image"),
        (manifest("{"), "not valid"),
        (manifest(r#"[{"Config":"../../etc/passwd","Layers":[]}]"#), "is not in the archive"),
        (good.clone().file("manifest.json", b"[]").file("manifest.json", b"[]").end(), "twice"),
        (
            good.clone()
                .symlink("a", "b")
                .symlink("b", "a")
                .file("manifest.json", br#"[{"Config":"a","Layers":[]}]"#)
                .end(),
            "is not in the archive",
        ),
        (good.device("x", b'3', (1, 3)).end(), "is not a file"),
        (docker_archive("Upper:1", &layers(), &run), "couldn't parse image name \"Upper:1\""),
        (oci_archive("x:1", &layers()[..1], |_| b"other".to_vec(), &run), "middle of an entry"),
        (gzip(&docker_archive("x:1", &layers(), &run))[..300].to_vec(), "cannot decompress"),
    ];
    for (archive, error) in cases {
        let refused = place.import(archive).unwrap_err().to_string();
        assert!(refused.contains(error), "{error}: {refused}");
        assert_eq!(place.content(), Vec::<String>::new(), "{error}");
    }
}

#[test]
fn changes_wake_for_names_of_any_process() {
    let place = place();
    let mut changes = place.images.changes();
    let other = Images::open(&place.root, Registries::default()).unwrap();
    let archive = docker_archive("x:1", &layers(), &serde_json::json!({}));
    runtime().block_on(async {
        other.import(Box::new(Cursor::new(archive))).await.unwrap();
        let deadline = std::time::Duration::from_secs(10);
        tokio::time::timeout(deadline, changes.changed()).await.unwrap().unwrap();
        changes.borrow_and_update();
        other.remove("x:1").unwrap();
        tokio::time::timeout(deadline, changes.changed()).await.unwrap().unwrap();
    });
}

/// What other tools write, and what they make of ours.
#[test]
fn archives_of_skopeo_and_umoci_are_read_and_ours_by_skopeo() {
    let place = place();
    let run = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(program)
            .args(arguments)
            .current_dir(&place.root)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{program} {arguments:?}: {text}");
    };
    run("umoci", &["init", "--layout", "lay"]);
    run("umoci", &["new", "--image", "lay:1"]);
    run("umoci", &["unpack", "--image", "lay:1", "bundle"]);
    let rootfs = place.root.join("bundle/rootfs");
    std::fs::create_dir_all(rootfs.join("etc")).unwrap();
    std::fs::write(rootfs.join("etc/passwd"), "root:x:0:0::/:\n").unwrap();
    std::os::unix::fs::symlink("etc", rootfs.join("link")).unwrap();
    std::fs::hard_link(rootfs.join("etc/passwd"), rootfs.join("etc/hard")).unwrap();
    std::fs::write(rootfs.join("n".repeat(200)), "long").unwrap();
    run("umoci", &["repack", "--image", "lay:1", "bundle"]);
    std::fs::remove_file(rootfs.join("etc/hard")).unwrap();
    run("umoci", &["repack", "--image", "lay:1", "bundle"]);
    run("umoci", &["config", "--image", "lay:1", "--config.env", "A=b"]);
    let policy = ["--insecure-policy", "copy", "-q"];
    for target in ["oci-archive:o.tar:made:1", "docker-archive:d.tar:made:1"] {
        run("skopeo", &[&policy[..], &["oci:lay:1", target]].concat());
        let file = place.root.join(if target.starts_with('o') { "o.tar" } else { "d.tar" });
        let image = place.import(std::fs::read(&file).unwrap()).unwrap().remove(0);
        assert_eq!(image.names, ["docker.io/library/made:1"], "{target}");
        assert_eq!(image.config.env.last().unwrap(), "A=b");
        let read = |path| place.images.read_file(&image, path, 100).unwrap();
        assert_eq!(read("/link/passwd"), Some(b"root:x:0:0::/:\n".to_vec()));
        assert_eq!(read("/etc/hard"), None, "whited out");
        assert_eq!(read(&"n".repeat(200)), Some(b"long".to_vec()));
        place.images.verify(&image).unwrap();
    }
    export::export(&place.images, "made:1", &place.root.join("ours.tar")).unwrap();
    run(
        "skopeo",
        &[&policy[..], &["oci-archive:ours.tar", "docker-archive:back.tar:x:2"]].concat(),
    );
    place.import(std::fs::read(place.root.join("back.tar")).unwrap()).unwrap();
}

const IMPORT_STORE: &str = "JOEY_TEST_IMPORT_STORE";

#[test]
fn plays_an_importer() {
    if let Some(root) = std::env::var_os(IMPORT_STORE) {
        let images = Images::open(Path::new(&root), Registries::default()).unwrap();
        let archive = std::fs::File::open(Path::new(&root).join("archive")).unwrap();
        runtime().block_on(images.import(Box::new(archive))).unwrap();
    }
}

/// Kills an import at each of its system calls that changes the store.
#[test]
fn an_import_killed_anywhere_is_whole_or_absent() {
    let place = place();
    let archive = oci_archive("x:1", &layers(), gzip, &serde_json::json!({}));
    std::fs::write(place.root.join("archive"), &archive).unwrap();
    let calls = "mkdir,mkdirat,rename,renameat,renameat2,fsync,syncfs,flock,unlink,unlinkat,fchown,linkat,symlinkat,mknodat";
    let mut finished = false;
    let mut kills = 0;
    for at in 1..200 {
        let status = std::process::Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e"])
            .arg(format!("trace={calls}"))
            .arg("-e")
            .arg(format!("inject={calls}:signal=SIGKILL:when={at}"))
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "runtime::image::tests::plays_an_importer", "--test-threads=1"])
            .env(IMPORT_STORE, &place.root)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap();
        let images = Images::open(&place.root, Registries::default()).unwrap();
        let left = place.content();
        match images.find("x:1").unwrap() {
            Some(image) => {
                images.verify(&image).unwrap();
                images.remove("x:1").unwrap();
            }
            // The image's record comes before its name: it may be there without one.
            None => {
                images.prune().unwrap();
                let is_clean = left.iter().all(|path| !path.starts_with("work/"));
                assert!(is_clean, "killed at {at}: {left:?}");
            }
        }
        assert_eq!(place.content(), Vec::<String>::new(), "killed at {at}");
        if status.success() {
            finished = true;
            break;
        }
        kills += 1;
    }
    assert!(finished, "the import never came to its end");
    assert!(kills > 10, "only {kills} kills: is strace there?");
}
