use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use crate::runtime::image::export::export;
use crate::runtime::image::tests::{Place, place, runtime};

use super::*;

fn context(place: &Place, files: &[(&str, &str)]) -> PathBuf {
    let dir = place.root.join(crate::sys::clock::uuid());
    for (name, content) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    dir
}

fn build_in(place: &Place, name: &str, dir: &Path) -> Result<Image, BuildError> {
    runtime().block_on(build(&place.images, name, dir, None))
}

#[test]
fn a_build_copies_and_describes() {
    let place = place();
    let dir = context(
        &place,
        &[
            (
                "Containerfile",
                "ARG V=1\nFROM scratch\nARG V\nCOPY rootfs/ /\nWORKDIR /srv/app\nCOPY --chown=kangaroo:9 --chmod=750 *.txt ./\nADD one.txt /data/\nCOPY one.txt /bin/tool\nENV A=\"x $V\" B=${A:-none}\nLABEL a.b=\"c d\"\nEXPOSE 80 81-82/udp\nVOLUME /data\nUSER 1000\nSTOPSIGNAL SIGQUIT\nENTRYPOINT [\"/bin/tool\"]\nCMD serve $A\n",
            ),
            ("rootfs/etc/passwd", "root:x:0:0::/:\nkangaroo:x:1000:1000::/:\n"),
            ("rootfs/usr/bin/run", "#!"),
            ("one.txt", "1"),
            ("two.txt", "2"),
            ("secret.txt", "s"),
            (".dockerignore", "secret.*\n"),
        ],
    );
    symlink("usr/bin", dir.join("rootfs/bin")).unwrap();
    fs::set_permissions(dir.join("rootfs/usr/bin/run"), fs::Permissions::from_mode(0o4755))
        .unwrap();
    let image = build_in(&place, "app:1", &dir).unwrap();
    assert_eq!(image.names, ["docker.io/library/app:1"]);
    assert_eq!(image.config.env, ["A=x 1", "B=none"]);
    assert_eq!(image.config.entrypoint, ["/bin/tool"]);
    assert_eq!(image.config.cmd, ["/bin/sh", "-c", "serve $A"]);
    assert_eq!(image.config.exposed_ports, ["80/tcp", "81/udp", "82/udp"]);
    assert_eq!(image.config.volumes, ["/data"]);
    assert_eq!(image.config.labels["a.b"], "c d");
    assert_eq!(image.config.stop_signal.as_deref(), Some("SIGQUIT"));
    assert_eq!(image.config.working_dir, "/srv/app");
    assert_eq!(image.config.user, "1000");
    let root = &image.layers[0];
    let about = |path: &str| {
        let metadata = fs::symlink_metadata(root.join(path)).unwrap();
        (metadata.mode() & 0o7777, metadata.uid(), metadata.gid(), metadata.mtime())
    };
    assert_eq!(about("usr/bin/run"), (0o4755, 0, 0, 0));
    assert_eq!(about("srv/app/two.txt"), (0o750, 1000, 9, 0));
    assert_eq!(fs::read_to_string(root.join("data/one.txt")).unwrap(), "1");
    assert_eq!(fs::read_link(root.join("bin")).unwrap(), Path::new("usr/bin"), "the link stays");
    assert_eq!(
        fs::read_to_string(root.join("usr/bin/tool")).unwrap(),
        "1",
        "copied through the link, inside the image"
    );
    assert!(!root.join("srv/app/secret.txt").exists());
}

#[test]
fn a_build_is_the_same_wherever_and_whenever_it_runs() {
    let (one, two) = (place(), place());
    let files =
        [("Containerfile", "FROM scratch\nCOPY a b /d/\nCMD [\"/d/a\"]\n"), ("b", "b"), ("a", "a")];
    let mut swapped = files;
    swapped.swap(1, 2);
    let first = build_in(&one, "x:1", &context(&one, &files)).unwrap();
    let second = build_in(&two, "y:2", &context(&two, &swapped)).unwrap();
    assert_eq!(first.id, second.id);
    assert_eq!(first.id, "sha256:beb5bb589bb780f8c18714fbb0242455c5fe1046cd51c41c328ebaaa29a81215");
}

#[test]
fn a_build_on_a_present_image_keeps_what_it_does_not_change() {
    let place = place();
    let base = context(
        &place,
        &[
            (
                "Dockerfile",
                "FROM scratch\nCOPY d /opt\nENV A=1 B=2\nENTRYPOINT [\"/e\"]\nCMD [\"c\"]\n",
            ),
            ("d/x", "x"),
            ("d/y", "y"),
        ],
    );
    build_in(&place, "base:1", &base).unwrap();
    let dir = context(
        &place,
        &[
            ("Dockerfile", "FROM base:1\nCOPY x /opt/x\nENV A=3\nENTRYPOINT [\"/f\"]\n"),
            ("x", "new"),
        ],
    );
    let image = build_in(&place, "derived:1", &dir).unwrap();
    assert_eq!(image.layers.len(), 2);
    assert_eq!(image.config.env, ["A=3", "B=2"]);
    assert_eq!(image.config.entrypoint, ["/f"]);
    assert!(image.config.cmd.is_empty(), "not the base's");
    let read = |path| place.images.read_file(&image, path, 100).unwrap();
    assert_eq!(read("/opt/x"), Some(b"new".to_vec()));
    assert_eq!(read("/opt/y"), Some(b"y".to_vec()));
}

#[test]
fn what_cannot_be_built_is_named_and_leaves_nothing() {
    let place = place();
    for (text, error) in [
        ("FROM scratch\nRUN x", "line 2: RUN is not supported"),
        ("FROM absent:1", "line 1: image \"absent:1\" is not present"),
        ("COPY a /", "line 1: only ARG may stand before FROM"),
        ("", "there is no FROM"),
        ("FROM scratch\nFROM scratch", "line 2: a second FROM"),
        ("FROM scratch\nCOPY nothing /", "line 2: \"nothing\" is not in"),
        ("FROM scratch\nCOPY ../a /", "line 2: \"../a\" lies outside"),
        ("FROM scratch\nCOPY out /", "line 2: \"out\" is not in"),
        ("FROM scratch\nADD a.tar /", "line 2: ADD would unpack"),
        ("FROM scratch\nCOPY a /a\nCOPY a /a/b", "line 3: \"a\" is not a directory"),
        ("FROM scratch\nCOPY --chown=bob a /", "line 2: --chown=bob"),
        ("FROM scratch\nCOPY --chmod=rwx a /", "line 2: --chmod=rwx"),
        ("FROM scratch\nEXPOSE 0", "line 2: \"0\" is not a port"),
        ("FROM scratch\nVOLUME ../x", "Volumes"),
    ] {
        let dir = context(&place, &[("Containerfile", text), ("a", "a"), ("a.tar", "a")]);
        symlink("/etc/hostname-of-nowhere", dir.join("out")).unwrap();
        let refused = build_in(&place, "x:1", &dir).unwrap_err().to_string();
        assert!(refused.contains(error), "{text}: {refused}");
        assert_eq!(place.content(), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn an_exported_build_is_imported_as_the_same_image() {
    let place = place();
    let long = format!("d/{}", ["n".repeat(60), "m".repeat(60)].join("/"));
    let dir = context(&place, &[("Containerfile", "FROM scratch\nCOPY d /d\n"), (&long, "deep")]);
    symlink("x".repeat(150), dir.join("d/link")).unwrap();
    let image = build_in(&place, "x:1", &dir).unwrap();
    let file = place.root.join("x.oci.tar");
    export(&place.images, "x:1", &file).unwrap();
    let again = place.root.join("again.oci.tar");
    export(&place.images, "x:1", &again).unwrap();
    assert!(fs::read(&file).unwrap() == fs::read(&again).unwrap(), "reproducible");
    place.images.remove("x:1").unwrap();
    let back = place.import(fs::read(&file).unwrap()).unwrap().remove(0);
    assert_eq!((back.id, back.names), (image.id, image.names));
}
