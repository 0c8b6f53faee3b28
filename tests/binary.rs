//! What the one binary and the programs of the sample images are made of: static, without the C library's name service.

use std::path::{Path, PathBuf};
use std::process::Command;

fn symbols() -> String {
    let output = Command::new("nm").arg(env!("CARGO_BIN_EXE_joey")).output().expect("nm can run");
    String::from_utf8(output.stdout).expect("symbol names are text")
}

#[test]
fn it_asks_for_no_loader_and_no_library() {
    let output = Command::new("readelf")
        .args(["--wide", "--program-headers", "--dynamic", env!("CARGO_BIN_EXE_joey")])
        .output()
        .expect("readelf can run");
    let text = String::from_utf8_lossy(&output.stdout);
    for mark in ["INTERP", "(NEEDED)"] {
        assert!(!text.contains(mark), "{mark} in the program's headers");
    }
}

#[test]
fn no_name_service_is_linked() {
    let symbols = symbols();
    assert!(symbols.contains(" main\n"), "the symbols can be read at all");
    let defined = symbols.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (kind, name) = (words.next()?, words.next()?);
        "tTwW".contains(kind).then_some(name)
    });
    let found: Vec<&str> = defined
        .filter(|name| {
            name.starts_with("__nss_") || name.starts_with("_nss_") || name.contains("gethostby")
        })
        .collect();
    assert_eq!(found, Vec::<&str>::new());
}

/// Whether a program holds `text`; stripped programs have no symbols, but their functions still name their files.
fn holds(program: &Path, text: &str) -> bool {
    let bytes = std::fs::read(program).expect("a program can be read");
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// The files that the C library reads for getaddrinfo (gai.conf(5)), and for getpw* and getgr* (nsswitch.conf(5)).
const OF_THE_NAME_SERVICE: &[&str] = &["/etc/gai.conf", "/etc/nsswitch.conf"];

#[test]
fn the_programs_of_the_sample_images_are_static_and_ask_no_name_service() {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // images/build.sh builds them there, whatever the target directory of the rest is.
    let places = [root.join("target"), root.join(target)];
    let release = places
        .map(|place| place.join("samples/x86_64-unknown-linux-gnu/release"))
        .into_iter()
        .find(|release| release.is_dir());
    let Some(release) = release else {
        eprintln!("SKIPPED: the sample images are not built here");
        assert!(std::env::var_os("REQUIRE_IMAGES").is_none(), "REQUIRE_IMAGES is set");
        return;
    };
    for name in ["kangaroo-backend", "kangaroo-frontend", "fetch"] {
        let program = release.join(name);
        let output = Command::new("readelf")
            .args(["--wide", "--program-headers", "--dynamic"])
            .arg(&program)
            .output()
            .expect("readelf can run");
        assert!(output.status.success(), "{name}");
        let text = String::from_utf8_lossy(&output.stdout);
        for mark in ["INTERP", "(NEEDED)"] {
            assert!(!text.contains(mark), "{mark} in the headers of {name}");
        }
        for mark in OF_THE_NAME_SERVICE {
            assert!(!holds(&program, mark), "{name} names {mark}");
        }
    }
    // That this is what betrays it: Debian's static busybox does ask.
    let busybox = Path::new("/bin/busybox");
    assert!(OF_THE_NAME_SERVICE.iter().all(|mark| holds(busybox, mark)));
}
