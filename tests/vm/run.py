#!/usr/bin/env python3
"""Runs the cases in a virtual machine: tests/vm/run.py JOEY IMAGES [--kubectl PATH] [--only 10,20] [--core]

A case is one bash script of cases/, run as root, in the order of the names; it passes by exit code 0. All share
one boot, except where a script's head asks for more:

    # vm: seconds 300       how long it takes at most, with processors to itself (180)
    # vm: reboot            before it, the machine goes down as systemd does it, and comes back
    # vm: power-cut         before it, the machine loses its power, and comes back
    # vm: hybrid            it wants a host whose controllers belong to cgroup v1: the machine is booted so before it,
                            and as usual again after it
    # vm: machine walls     it wants the machine that has other programs' firewalls, too; such cases come last
    # vm: core              it is one of those that `make test` runs
    # vm: asked             it runs only when --only names it

The second disk, mounted read-only at /lane, holds bin/joey, bin/kubectl, images/, demo/ and cases/. A failing case leaves
everything there is to know in vm-cache/transcripts/CASE.log.
"""

import argparse
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from machine import Machine, MachineError, Outcome
from vagrant import VagrantMachine

HERE = pathlib.Path(__file__).resolve().parent
# A case that hangs is ended after so many times what it asks for: the emulator may share its processors.
PATIENCE = 2
CACHE = pathlib.Path(os.environ.get("JOEY_VM_CACHE", HERE.parent.parent / "vm-cache"))

# What a failing case's transcript says besides the case's own words. Each line is bounded, none may fail.
EVIDENCE = """
show() { printf '\\n---- %s\\n' "$*"; timeout 30 "$@" 2>&1 | tail -n 400; }
export PATH=/lane/bin:$PATH KUBECONFIG=/var/lib/joey/admin.kubeconfig
[ ! -s /run/vm-trace ] || show cat /run/vm-trace
show journalctl --no-pager -o short-precise --since=@SINCE
show systemctl status --no-pager --full joey.service
if systemctl is-active --quiet joey.service; then
    show kubectl --request-timeout=20s get pods,events -A -o wide
    show kubectl --request-timeout=20s get pods -A -o yaml
    show kubectl --request-timeout=20s describe node
fi
show ps -e --forest -o pid,ppid,stat,rss,etimes,cgroup:60,args
show find /sys/fs/cgroup -type d -not -path '*/system.slice/*'
show ip -br address
show ip netns
show nft list ruleset
show cat /proc/self/mountinfo
show free -m
show df -h
"""


@dataclasses.dataclass(frozen=True)
class Case:
    """One script and what its head asks for."""

    path: pathlib.Path
    promise: str
    seconds: int
    before: str | None
    hierarchy: str
    machine: str
    is_core: bool
    is_asked: bool

    @property
    def name(self) -> str:
        return self.path.stem

    @staticmethod
    def read(path: pathlib.Path) -> "Case":
        promise, seconds, before, is_core, is_asked = None, 180, None, False, False
        hierarchy, machine = "unified", "lane"
        for line in path.read_text().splitlines():
            if not line.startswith("#"):
                break
            if asked := re.fullmatch(r"# vm: (.*)", line):
                match asked[1].split():
                    case ["seconds", number] if number.isdigit():
                        seconds = int(number)
                    case ["reboot" | "power-cut" as before]:
                        pass
                    case ["hybrid" as hierarchy]:
                        pass
                    case ["machine", "walls" as machine]:
                        pass
                    case ["core"]:
                        is_core = True
                    case ["asked"]:
                        is_asked = True
                    case _:
                        sys.exit(f"{path}: cannot do {asked[1]!r}")
            elif line.startswith("# ") and promise is None:
                promise = line[2:]
        if promise is None:
            sys.exit(f"{path}: its first comment must say what it promises")
        return Case(path, promise, seconds, before, hierarchy, machine, is_core, is_asked)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Runs the cases of tests/vm in a virtual machine.")
    parser.add_argument("joey", type=pathlib.Path, help="the binary to test")
    parser.add_argument("images", type=pathlib.Path, help="the directory that images/build.sh filled")
    parser.add_argument("--kubectl", type=pathlib.Path, default=HERE.parent.parent / ".tools/kubectl")
    parser.add_argument("--only", default="", help="beginnings of case names, separated by commas")
    parser.add_argument("--core", action="store_true", help="only what `make test` runs")
    parser.add_argument("--vagrant", action="store_true", help="in a machine of vagrant/Vagrantfile")
    parser.add_argument("--stage", type=pathlib.Path, help="lay out what the machine gets in this directory, run nothing")
    parser.add_argument("--footprint", type=pathlib.Path, help="write what 60-footprint has measured into this file")
    parser.add_argument("--verbose", action="store_true", help="show the output of passing cases, too")
    return parser.parse_args()


def stage(asked: argparse.Namespace, content: pathlib.Path, cases: list[Case]) -> None:
    """Lays out everything that the cases use."""
    (content / "bin").mkdir(parents=True)
    for name, source in (("joey", asked.joey), ("kubectl", asked.kubectl)):
        if not source.is_file():
            sys.exit(f"{source} is missing")
        shutil.copy(source, content / "bin" / name)
    # Debug information is most of a debug build, and the machine's memory and disk are small.
    subprocess.run(["strip", "--strip-debug", content / "bin/joey"], check=True)
    shutil.copytree(asked.images, content / "images")
    shutil.copytree(HERE / "cases", content / "cases")
    shutil.copytree(HERE.parent / "demo", content / "demo")
    if any("/lane/dist" in case.path.read_text() for case in cases):
        # Compressing what is unpacked at once would take a minute.
        environment = dict(os.environ, JOEY_DIST_COMPRESSION="none")
        subprocess.run([HERE.parent.parent / "packaging/dist.sh", content / "bin/joey", content / "dist"],
                       check=True, env=environment, stdout=subprocess.DEVNULL)  # fmt: skip


def lane_disk(asked: argparse.Namespace, scratch: pathlib.Path, cases: list[Case]) -> pathlib.Path:
    """Packs it into one ext4 image."""
    content = scratch / "lane"
    stage(asked, content, cases)
    size = sum(path.stat().st_size for path in content.rglob("*"))
    disk = scratch / "lane.ext4"
    environment = dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin")
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", content, disk,
         f"{size * 11 // 10 // 1024 + 4096}k"],
        check=True, env=environment, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    shutil.rmtree(content)
    return disk


def run_case(machine: Machine, case: Case) -> Outcome:
    """Runs it as a transient unit, so that whatever it leaves behind ends with it."""
    seconds = case.seconds * PATIENCE
    script = f"""
        : >/run/vm-trace
        exec systemd-run --quiet --pipe --wait --collect --unit=vm-case -E HOME=/root \
            -p RuntimeMaxSec={seconds} -p OOMScoreAdjust=-900 bash /lane/cases/{case.path.name}
    """
    return machine.run(script, seconds + 60)


class Lane:
    """The cases of one run, and what became of them."""

    def __init__(self, machine_of: Callable[[str], Machine | VagrantMachine], verbose: bool):
        self.machine_of = machine_of
        self.machine: Machine | VagrantMachine | None = None
        self.kind: str | None = None
        self.verbose = verbose
        self.transcripts = CACHE / "transcripts"
        self.failed: list[str] = []
        self.is_up = False
        shutil.rmtree(self.transcripts, ignore_errors=True)
        self.transcripts.mkdir(parents=True)

    def run(self, case: Case) -> None:
        began, since = time.monotonic(), "0"
        try:
            self.prepare(case)
            since = self.machine.run("date +%s", 30).output.strip()
            outcome = run_case(self.machine, case)
        except MachineError as error:
            self.off()
            outcome = Outcome(-1, f"{error}\n")
        seconds = time.monotonic() - began
        print(f"{'ok    ' if outcome.code == 0 else 'FAILED'} {case.name:32} {seconds:6.1f} s  {case.promise}", flush=True)
        if outcome.code == 0:
            if self.verbose:
                print(indented(outcome.output), end="", flush=True)
            return
        self.failed.append(case.name)
        print(indented("\n".join(outcome.output.splitlines()[-15:]) + "\n"), end="")
        print(f"         everything: {self.transcript(case, outcome, since)}", flush=True)

    def off(self) -> None:
        if self.machine:
            self.machine.off()
        self.is_up = False

    def prepare(self, case: Case) -> None:
        if self.kind != case.machine:
            self.off()
            self.machine, self.kind = self.machine_of(case.machine), case.machine
        differs = self.machine.hierarchy != case.hierarchy
        self.machine.hierarchy = case.hierarchy
        if not self.is_up:
            seconds = self.machine.boot()
            self.is_up = True
        elif case.before == "reboot" or differs:
            seconds = self.machine.reboot()
        elif case.before == "power-cut":
            seconds = self.machine.power_cut()
        else:
            return
        print(f"       up after {seconds:.1f} s", flush=True)

    def transcript(self, case: Case, outcome: Outcome, since: str) -> pathlib.Path:
        path = self.transcripts / f"{case.name}.log"
        try:
            if self.is_up:
                evidence = self.machine.run(EVIDENCE.replace("SINCE", since), 240).output
            else:
                # The case took the machine down or made it mute; its journal is on the disk.
                self.machine.boot()
                self.is_up = True
                evidence = self.machine.run("journalctl --no-pager -o short-precise -b -1 -n 1000", 120).output
        except MachineError as error:
            evidence = f"no more to learn: {error}\n"
            self.off()
        console = self.machine.console.read_text(errors="replace")[-20_000:]
        path.write_text(
            f"{case.name}: {case.promise}\nexit code {outcome.code}\n\n{outcome.output}{evidence}\n---- console\n{console}"
        )
        return path


def indented(text: str) -> str:
    return "".join(f"         {line}\n" for line in text.splitlines())


def main() -> int:
    asked = arguments()
    wanted = tuple(part for part in asked.only.split(",") if part)
    cases = [Case.read(path) for path in sorted((HERE / "cases").glob("[0-9]*.sh"))]
    cases.sort(key=lambda case: (case.machine != "lane", case.name))
    cases = [case for case in cases if (case.name.startswith(wanted) if wanted else not case.is_asked)]
    cases = [case for case in cases if case.is_core or not asked.core]
    is_usual = lambda case: case.hierarchy == "unified" and case.machine == "lane"
    if asked.vagrant and (left_out := [case.name for case in cases if not is_usual(case)]):
        print(f"       a box has its own command line and packages; left out: {', '.join(left_out)}", flush=True)
        cases = [case for case in cases if is_usual(case)]
    if asked.stage:
        stage(asked, asked.stage, cases)
        return 0
    if not cases:
        sys.exit(f"no case begins with {asked.only}")
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=CACHE) as directory:
        scratch = pathlib.Path(directory)
        if asked.vagrant:
            stage(asked, scratch / "lane", cases)
            machine = VagrantMachine(scratch / "lane", scratch)
            lane = Lane(lambda _: machine, asked.verbose)
        else:
            images = {}
            for kind in dict.fromkeys(case.machine for case in cases):
                built = subprocess.run([HERE / "build-image.sh", kind], stdout=subprocess.PIPE, text=True)
                if built.returncode != 0:
                    return built.returncode  # it has said why
                images[kind] = pathlib.Path(built.stdout.strip())
            disk = lane_disk(asked, scratch, cases)
            lane = Lane(lambda kind: Machine(images[kind], disk, scratch / kind), asked.verbose)
        try:
            for case in cases:
                lane.run(case)
            if asked.footprint and not lane.failed:
                # An emulator that waits for a processor passes the wait on as time of its machine's.
                load = f"\nLoad of the emulating machine over the last 15 minutes: {os.getloadavg()[2]:.1f} on {os.cpu_count()} processors.\n"
                asked.footprint.write_text(lane.machine.run("cat /var/lib/vm-lane/footprint.md", 30).output + load)
        finally:
            lane.off()
    print(f"\n{len(cases) - len(lane.failed)} of {len(cases)} cases pass", flush=True)
    return 1 if lane.failed else 0


if __name__ == "__main__":
    sys.exit(main())
