//! What an installed Joey consists of: each file's place, mode and content.
//!
//! Pure. A directory that may exist already (`/usr/local/bin`) is not listed: whoever lays files out makes what
//! is missing and remembers it.

use std::path::{Path, PathBuf};

/// Where the parts go that distributions place differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    pub prefix: PathBuf,
    pub units: PathBuf,
    pub zsh: PathBuf,
}

impl Layout {
    /// For an administrator's own installation: below `/usr/local`, which no package touches. systemd looks for
    /// units there, too (systemd.unit(5)), and changes to them belong into drop-ins in `/etc`.
    pub fn local() -> Layout {
        Layout::below("/usr/local", "site-functions")
    }

    /// For a Debian package.
    pub fn packaged() -> Layout {
        Layout::below("/usr", "vendor-completions")
    }

    fn below(prefix: &str, zsh: &str) -> Layout {
        let prefix = PathBuf::from(prefix);
        Layout {
            units: prefix.join("lib/systemd/system"),
            zsh: prefix.join("share/zsh").join(zsh),
            prefix,
        }
    }

    pub fn binary(&self) -> PathBuf {
        self.prefix.join("bin/joey")
    }

    pub fn unit(&self) -> PathBuf {
        self.units.join("joey.service")
    }
}

/// One file to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub path: PathBuf,
    pub mode: u32,
    pub content: Vec<u8>,
}

/// What the files are made of.
pub struct Parts {
    pub binary: Vec<u8>,
    /// Of bash, zsh and fish, in this order.
    pub completions: [Vec<u8>; 3],
    /// File name and text.
    pub pages: Vec<(String, Vec<u8>)>,
}

/// Directories that are Joey's own in every layout, with their modes. Manifests may hold Secrets.
pub const DIRECTORIES: [(&str, u32); 2] = [("/etc/joey", 0o755), ("/etc/joey/manifests", 0o700)];

/// Every file, in the order in which they are written: the unit last, so that it never names what is not there.
pub fn items(layout: &Layout, parts: Parts) -> Vec<Item> {
    let share = layout.prefix.join("share");
    let [bash, zsh, fish] = parts.completions;
    let mut items = vec![
        Item { path: layout.binary(), mode: 0o755, content: parts.binary },
        plain(share.join("bash-completion/completions/joey"), bash),
        plain(layout.zsh.join("_joey"), zsh),
        plain(share.join("fish/vendor_completions.d/joey.fish"), fish),
    ];
    let manual = share.join("man/man1");
    items.extend(parts.pages.into_iter().map(|(name, text)| plain(manual.join(name), text)));
    items.push(plain(layout.unit(), unit(&layout.binary()).into_bytes()));
    items
}

fn plain(path: PathBuf, content: Vec<u8>) -> Item {
    Item { path, mode: 0o644, content }
}

/// The unit's text.
fn unit(binary: &Path) -> String {
    format!(
        "# Joey's unit. Change it with `systemctl edit joey`: an upgrade writes this file anew.
[Unit]
Description=Joey: Kubernetes for one host
Documentation=man:joey(1)
Wants=network-online.target
# Stopped in the other order: while the host goes down, pods still have their network and can say goodbye.
After=network-online.target nftables.service firewalld.service dbus.socket
# A host that cannot run it should say so again and again, not give up after five tries.
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={binary} serve
Restart=always
RestartSec=1
WatchdogSec=30
# A host that boots under load, with hundreds of pods to find again, needs longer than the usual 90 s.
TimeoutStartSec=300
# Joey asks for more time while pods end in order on the way down of the host.
TimeoutStopSec=30

# Pods and their shims live in a scope of their own (joey-ID.scope), so stop, restart and upgrade leave them
# running, whatever is done to this unit. What is left in the unit itself goes with it.
KillMode=mixed
Delegate=yes
# Listening sockets: clients that come during a restart wait instead of being refused.
FileDescriptorStoreMax=16

# Beside pods and system.slice, not in it: protection of memory holds only as far as every group above has it, too,
# and whatever spins in a pod or in another service leaves the API its share.
Slice=-.slice
CPUWeight=500
IOWeight=500
MemoryMin=128M
MemorySwapMax=0
OOMScoreAdjust=-999
OOMPolicy=continue
TasksMax=infinity
LimitNOFILE=1048576

# Sandboxing by mount namespace, seccomp or a smaller capability set would become part of every pod, because pods
# descend from this service: the next daemon would not see their mounts, and set-uid programs, 32-bit programs or
# privileged containers would break. What is left is what stays with the daemon.
UMask=0077
KeyringMode=private
NotifyAccess=main
DevicePolicy=closed

[Install]
WantedBy=multi-user.target
",
        binary = binary.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_has_its_place() {
        let parts = || Parts {
            binary: b"elf".to_vec(),
            completions: [Vec::new(), Vec::new(), Vec::new()],
            pages: vec![("joey.1".to_owned(), Vec::new())],
        };
        let places = |layout: Layout| {
            let items = items(&layout, parts());
            items
                .iter()
                .map(|item| format!("{:o} {}\n", item.mode, item.path.display()))
                .collect::<String>()
        };
        expect_test::expect![[r"
            755 /usr/local/bin/joey
            644 /usr/local/share/bash-completion/completions/joey
            644 /usr/local/share/zsh/site-functions/_joey
            644 /usr/local/share/fish/vendor_completions.d/joey.fish
            644 /usr/local/share/man/man1/joey.1
            644 /usr/local/lib/systemd/system/joey.service
        "]]
        .assert_eq(&places(Layout::local()));
        assert!(places(Layout::packaged()).contains("644 /usr/share/zsh/vendor-completions/_joey"));
    }

    #[test]
    fn the_unit_runs_the_binary_that_was_installed() {
        let text = unit(&Layout::packaged().binary());
        assert!(text.contains("\nExecStart=/usr/bin/joey serve\n"), "{text}");
    }
}
