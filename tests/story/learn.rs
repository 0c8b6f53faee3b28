//! `joey learn` on a terminal, which script(1) makes.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::cluster::{Cluster, image_archive};

const PATIENCE: Duration = Duration::from_secs(90);

/// A reader in front of it.
struct Reader {
    child: Child,
    keys: ChildStdin,
    shown: Receiver<Vec<u8>>,
    text: String,
}

impl Reader {
    fn sits_down(cluster: &Cluster, temporary: &Path, kubectl: &str) -> Reader {
        let learn = cluster.joey_command();
        let line = format!("{} learn --until 1 --kubectl {kubectl}", learn.get_program().display());
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).env_clear();
        script.envs(learn.get_envs().filter_map(|(name, value)| Some((name, value?))));
        script.env("TMPDIR", temporary).env("SHELL", "/bin/sh");
        script.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = script.spawn().expect("script(1) can run");
        let keys = child.stdin.take().expect("it is piped");
        let mut screen = child.stdout.take().expect("it is piped");
        let (sender, shown) = channel();
        std::thread::spawn(move || {
            let mut some = [0; 4096];
            while let Ok(length @ 1..) = screen.read(&mut some) {
                if sender.send(some[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Reader { child, keys, shown, text: String::new() }
    }

    fn reads(&mut self, words: &str) {
        while !self.text.contains(words) {
            match self.shown.recv_timeout(PATIENCE) {
                Ok(some) => self.text.push_str(&String::from_utf8_lossy(&some)),
                Err(_) => panic!("no {words:?} in {}", self.text),
            }
        }
    }

    fn types(&mut self, key: u8) {
        self.keys.write_all(&[key]).expect("it reads keys");
    }

    /// How it ended, when it has.
    fn leaves(mut self) -> (bool, String) {
        while let Ok(some) = self.shown.recv_timeout(PATIENCE) {
            self.text.push_str(&String::from_utf8_lossy(&some));
        }
        (self.child.wait().expect("it ends").success(), self.text)
    }
}

#[test]
fn a_reader_goes_step_by_step_and_leaves_nothing_when_they_leave() {
    const ENTER: u8 = b'\n';
    const CTRL_C: u8 = 3;
    const CTRL_D: u8 = 4;
    let cluster = Cluster::start("learn");
    let frontend = image_archive("kangaroo-frontend.oci.tar").display().to_string();
    cluster.joey(&["image", "import", &frontend]).ok();
    let kubectl = cluster.kubectl_command().get_program().to_str().expect("UTF-8").to_owned();
    let temporary = cluster.data_dir().with_file_name("readers");
    std::fs::create_dir(&temporary).expect("it is not there");
    let is_clean = |cluster: &Cluster| {
        let left = cluster.kubectl(&["get", "namespaces", "-o", "name"]).ok();
        assert!(!left.contains("kangaroo-team"), "{left}");
        assert_eq!(std::fs::read_dir(&temporary).expect("it is there").count(), 0);
    };

    let mut reader = Reader::sits_down(&cluster, &temporary, &kubectl);
    reader.reads("Enter runs the command that is shown. Ctrl-C leaves");
    reader.reads("$ kubectl get nodes -o wide");
    reader.types(ENTER);
    reader.reads("$ kubectl create namespace kangaroo-team");
    assert!(!reader.text.contains("namespace/kangaroo-team created"), "it waits for the reader");
    reader.types(ENTER);
    reader.reads("Everything in the story was true.");
    let (is_good, text) = reader.leaves();
    assert!(is_good, "{text}");
    is_clean(&cluster);

    for key in [CTRL_C, CTRL_D] {
        let mut reader = Reader::sits_down(&cluster, &temporary, &kubectl);
        reader.reads("$ kubectl get nodes -o wide");
        reader.types(ENTER);
        reader.reads("$ kubectl create namespace kangaroo-team");
        cluster.kubectl(&["create", "namespace", "kangaroo-team"]).ok();
        reader.types(key);
        reader.reads("the story was left");
        let (is_good, text) = reader.leaves();
        assert!(!is_good, "{text}");
        is_clean(&cluster);
    }
    cluster.finish();
}
