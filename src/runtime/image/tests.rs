use std::io::Cursor;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

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
