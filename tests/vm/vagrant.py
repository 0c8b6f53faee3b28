"""A virtual machine as Vagrant makes it: the same words as machine.Machine, the same cases, another way in.

The Vagrantfile is vagrant/Vagrantfile; JOEY_BOX says which box, VAGRANT_DEFAULT_PROVIDER which provider. Commands go
over ssh. tests/vm/vagrant.sh gives it a libvirtd of its own.
"""

import os
import pathlib
import re
import subprocess
import time

from machine import MachineError, Outcome

PLACE = pathlib.Path(__file__).resolve().parent.parent.parent / "vagrant"


class VagrantMachine:
    """A machine of the Vagrantfile; `off` destroys it."""

    UP_SECONDS = 1800
    BACK_SECONDS = 420
    hierarchy = "unified"  # a box boots with its own command line

    def __init__(self, stage: pathlib.Path, scratch: pathlib.Path):
        self.console = scratch / "vagrant.log"
        self.console.touch()
        self._config = scratch / "ssh-config"
        self._dot_vagrant = scratch / "dot-vagrant"
        self._environment = dict(
            os.environ, JOEY_STAGE=str(stage), JOEY_INSTALL="no", VAGRANT_DOTFILE_PATH=str(self._dot_vagrant)
        )
        self._is_up = False

    def _vagrant(self, *arguments: str, seconds: float) -> str:
        with self.console.open("a") as log:
            try:
                done = subprocess.run(
                    ["vagrant", *arguments], cwd=PLACE, env=self._environment, timeout=seconds,
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                raise MachineError(f"vagrant {arguments[0]} did not end in time") from None
            log.write(done.stdout)
        if done.returncode != 0:
            tail = "\n".join(self.console.read_text(errors="replace").splitlines()[-25:])
            raise MachineError(f"vagrant {' '.join(arguments)} has failed:\n{tail}")
        return done.stdout

    def boot(self) -> float:
        began = time.monotonic()
        self._vagrant("up", seconds=self.UP_SECONDS)
        self._config.write_text(self._vagrant("ssh-config", seconds=60))
        self._is_up = True
        return time.monotonic() - began

    def _ssh(self, script: str, seconds: float) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["ssh", "-F", self._config, "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=15", "default",
             "sudo", "env", "HOME=/root", "bash", "-s"],
            input=script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=seconds,
        )  # fmt: skip

    def run(self, script: str, seconds: float, on_line=None) -> Outcome:
        """Runs a bash script as root and waits for its end."""
        try:
            done = self._ssh(script, seconds)
        except subprocess.TimeoutExpired:
            raise MachineError("the machine did not answer in time") from None
        if done.returncode == 255:  # ssh's own
            raise MachineError(f"the machine cannot be reached: {done.stdout}")
        for line in done.stdout.splitlines() if on_line else []:
            on_line(line)
        return Outcome(done.returncode, done.stdout)

    def reboot(self) -> float:
        """Goes down as systemd does it, and boots again."""
        began = time.monotonic()
        before = self._boot_id()
        self._ssh("systemd-run --quiet --on-active=1 systemctl reboot", 60)
        while time.monotonic() - began < self.BACK_SECONDS:
            now = self._boot_id()
            if now and now != before:
                return time.monotonic() - began
            time.sleep(1)
        raise MachineError("the machine did not come back in time")

    def _boot_id(self) -> str | None:
        try:
            done = self._ssh("cat /proc/sys/kernel/random/boot_id", 30)
        except subprocess.TimeoutExpired:
            return None
        found = re.search(r"^[0-9a-f-]{36}$", done.stdout, re.MULTILINE)
        return found[0] if done.returncode == 0 and found else None

    # `vagrant halt --force` of vagrant-libvirt asks the guest to shut down first.
    PLUGS = {"libvirt": ["virsh", "--quiet", "destroy"], "virtualbox": ["VBoxManage", "controlvm"]}

    def power_cut(self) -> float:
        """Pulls the plug and boots again on the same disk."""
        began = time.monotonic()
        provider = os.environ.get("VAGRANT_DEFAULT_PROVIDER", "libvirt")
        machine = (self._dot_vagrant / "machines/default" / provider / "id").read_text().strip()
        order = [*self.PLUGS[provider], machine, *(["poweroff"] if provider == "virtualbox" else [])]
        pulled = subprocess.run(order, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if pulled.returncode != 0:
            raise MachineError(f"{' '.join(order)} has failed: {pulled.stdout}")
        self._vagrant("up", "--no-provision", seconds=self.UP_SECONDS)
        self._config.write_text(self._vagrant("ssh-config", seconds=60))
        return time.monotonic() - began

    def off(self) -> None:
        if self._is_up or "default" in self.console.read_text(errors="replace"):
            self._is_up = False
            self._vagrant("destroy", "--force", seconds=180)
