"""One virtual machine: boots it, runs commands in it, cuts its power.

QEMU under software emulation, no network device, two disks: the machine's own (a copy, so every run starts from
the same bare Debian) and the lane's, read-only. Commands go over a virtio port to guest/agent.sh. It never knows
what is tested; run.py does.
"""

import base64
import dataclasses
import os
import pathlib
import selectors
import socket
import subprocess
import time


class MachineError(Exception):
    """The machine did not do what every case relies on: boot, answer, go down."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a command ended, and everything it printed."""

    code: int
    output: str


class Machine:
    """A machine and its disk; the disk stays when the power goes."""

    BOOT_SECONDS = 300
    DOWN_SECONDS = 240
    # systemd's own switch, see kernel-command-line(7) of systemd.
    HIERARCHIES = {
        "unified": "systemd.unified_cgroup_hierarchy=1",
        "hybrid": "systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=0",
    }

    def __init__(self, image: pathlib.Path, lane_disk: pathlib.Path, scratch: pathlib.Path):
        self.image = image
        self.lane_disk = lane_disk
        self.disk = scratch / "root.ext4"
        self.console = scratch / "console.log"
        # How the next boot lays cgroups out: one of HIERARCHIES.
        self.hierarchy = "unified"
        self._socket_path = scratch / "port.sock"
        self._qemu: subprocess.Popen | None = None
        self._port: socket.socket | None = None
        self._unread = b""
        self._commands = 0
        scratch.mkdir(exist_ok=True)
        subprocess.run(
            ["cp", "--sparse=always", "--reflink=auto", image / "root.ext4", self.disk], check=True
        )

    def boot(self) -> float:
        """Starts the machine and returns after how many seconds its agent answered."""
        began = time.monotonic()
        self._socket_path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self._socket_path))
            listener.listen(1)
            listener.settimeout(10)
            self._qemu = subprocess.Popen(
                self._command_line(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=self.console.open("ab"),
            )  # fmt: skip
            try:
                self._port, _ = listener.accept()
            except TimeoutError:
                raise MachineError(f"QEMU did not start; see {self.console}") from None
        self._unread = b""
        for line in self._lines(began + self.BOOT_SECONDS):
            if line == "=ready 0":
                return time.monotonic() - began
        raise MachineError("the machine went down while it booted")

    def _command_line(self) -> list[str]:
        kernel = " ".join([
            "root=/dev/vda rw console=ttyS0 loglevel=4 mitigations=off panic=-1 net.ifnames=0",
            # On a busy host the emulated timer is too late for the kernel's check of it, and that is a panic.
            "no_timer_check",
            self.HIERARCHIES[self.hierarchy],
            "systemd.show_status=error",
        ])  # fmt: skip
        return [
            # A machine does not outlive the program that looks after it, however that ends.
            "setpriv", "--pdeathsig", "KILL", "--",
            "qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot", "-nic", "none",
            # Where KVM really boots a stock kernel, JOEY_VM_ACCEL=kvm is some ten times faster.
            "-accel", os.environ.get("JOEY_VM_ACCEL", "tcg,thread=multi"),
            "-cpu", "max", "-smp", "2", "-m", "1024",
            "-kernel", str(self.image / "vmlinuz"), "-initrd", str(self.image / "initrd"), "-append", kernel,
            "-drive", f"file={self.disk},if=none,id=root,format=raw,cache=writeback",
            "-device", "virtio-blk-pci,drive=root",
            "-drive", f"file={self.lane_disk},if=none,id=lane,format=raw,readonly=on",
            "-device", "virtio-blk-pci,drive=lane",
            "-device", "virtio-rng-pci",
            "-chardev", f"file,id=console,path={self.console},append=on", "-serial", "chardev:console",
            "-device", "virtio-serial-pci",
            "-chardev", f"socket,id=port,path={self._socket_path}",
            "-device", "virtserialport,chardev=port,name=org.joey.lane",
        ]  # fmt: skip

    def _lines(self, deadline: float):
        """What the agent says, line by line; ends when the machine is off."""
        with selectors.DefaultSelector() as ready:
            ready.register(self._port, selectors.EVENT_READ)
            while True:
                while b"\n" in self._unread:
                    line, self._unread = self._unread.split(b"\n", 1)
                    yield line.decode(errors="replace").rstrip("\r")
                left = deadline - time.monotonic()
                if left <= 0:
                    raise MachineError("the machine did not answer in time")
                if ready.select(left):
                    try:
                        got = self._port.recv(65536)
                    except ConnectionResetError:
                        return
                    if not got:
                        return
                    self._unread += got

    def run(self, script: str, seconds: float, on_line=None) -> Outcome:
        """Runs a bash script as root and waits for its end; `on_line` sees the output as it comes."""
        self._commands += 1
        name = str(self._commands)
        encoded = base64.b64encode(script.encode()).decode()
        self._port.sendall(f"{name} {encoded}\n".encode())
        output = []
        for line in self._lines(time.monotonic() + seconds):
            if line.startswith("|"):
                output.append(line[1:])
                if on_line:
                    on_line(line[1:])
            elif line.startswith(f"={name} "):
                return Outcome(int(line.split()[1]), "".join(text + "\n" for text in output))
        raise MachineError("the machine went down during a command")

    def reboot(self) -> float:
        """Goes down as systemd does it, and boots again."""
        self._port.sendall(f"reboot {base64.b64encode(b'systemctl reboot').decode()}\n".encode())
        try:
            self._qemu.wait(self.DOWN_SECONDS)
        except subprocess.TimeoutExpired:
            raise MachineError("the machine did not go down in time") from None
        self._forget()
        return self.boot()

    def power_cut(self) -> float:
        """Pulls the plug and boots again on the same disk.

        What the guest had not written to its disk is gone. What it had written without a flush is still there,
        because this host's page cache has it: a missing fsync is not found this way (spec/faults.md F5 is).
        """
        self.off()
        return self.boot()

    def off(self) -> None:
        """Takes the power away, whatever the machine is doing."""
        if self._qemu:
            self._qemu.kill()
            self._qemu.wait()
        self._forget()

    def _forget(self) -> None:
        if self._port:
            self._port.close()
        self._port = None
        self._qemu = None
