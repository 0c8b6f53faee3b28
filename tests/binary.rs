//! What the one binary is made of: static, position independent, without the C library's name service.

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
