"""A real SLURM of two small nodes on this machine, without systemd: for root, with the packages slurm-wlm and munge.

python tests/commands/slurm_cluster.py FOLDER    # keeps it until Ctrl-C; SLURM_CONF=FOLDER/slurm.conf squeue
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthInfo=socket={folder}/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=5
SlurmdTimeout=15
ReturnToService=2
MailProg=/bin/true
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=1000
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=1000
PartitionName=low Nodes=ALL Default=YES PriorityTier=1
PartitionName=high Nodes=ALL PriorityTier=2
"""


def installed() -> bool:
    """Whether this machine can run it; its programs need not be on the path of a user."""
    if not importlib.util.find_spec("submitit"):
        return False
    return os.geteuid() == 0 and all(shutil.which(name, path=_path()) for name in PROGRAMS)


def _path() -> str:
    return os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"])


class SlurmCluster:
    """Controller, two nodes of one processor each and munge; in ``with`` it runs, and ``SLURM_CONF`` names it.

    Args:
        folder: where everything lies; its path must be short, as sockets have their place in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> SlurmCluster:
        """Start it, and wait until both nodes are idle."""
        for name in ("state", "spool.node1", "spool.node2"):
            (self.folder / name).mkdir(parents=True)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        config = CONFIG.format(host=socket.gethostname(), folder=self.folder, ports=_free_ports(3))
        (self.folder / "slurm.conf").write_text(config)
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nIgnoreSystemd=yes\n")
        os.environ["SLURM_CONF"] = str(self.folder / "slurm.conf")
        try:
            munge = {"socket": "munge.sock", "key-file": "munge.key", "pid-file": "munged.pid", "seed-file": "seed"}
            options = [f"--{name}={self.folder / file}" for name, file in munge.items()]
            self._start("munged", "--foreground", "--force", f"--log-file={self.folder}/munged.log", *options)
            self._start("slurmctld", "-D")
            for node in ("node1", "node2"):
                self.start_node(node)
            self.wait_for(lambda: self.nodes() == {"node1": "idle", "node2": "idle"}, 60)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancel all jobs and end all daemons."""
        subprocess.run(["scancel", "--user=root"], check=False)
        time.sleep(2)
        for name in reversed(list(self.daemons)):
            self._stop(name)
        del os.environ["SLURM_CONF"]

    def start_node(self, node: str) -> None:
        """Start the daemon of a node."""
        self._start("slurmd", "-D", "-N", node, name=node)

    def lose_node(self, node: str) -> None:
        """What a power cut does: the daemon of the node and all processes of its jobs are gone at once."""
        self._stop(node, signal.SIGKILL)
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended meanwhile, or is not ours to read
                stepd = (process / "cmdline").read_bytes().startswith(b"slurmstepd")
                if stepd and not self._serves(process, node):
                    continue
                if stepd or f"SLURMD_NODENAME={node}".encode() in (process / "environ").read_bytes().split(b"\0"):
                    os.kill(int(process.name), signal.SIGKILL)

    def _serves(self, stepd: Path, node: str) -> bool:
        """Whether a step's daemon is one of the node; it has the socket of its step in the node's spool folder."""
        title = (stepd / "cmdline").read_text().strip("\0 ")  # slurmstepd: [12.batch]
        job = title.partition("[")[2].split(".")[0]
        return any(self.folder.glob(f"spool.{node}/{node}_{job}.*"))

    def nodes(self) -> dict[str, str]:
        """State of each node."""
        lines = self.run("sinfo", "--noheader", "--Node", "--partition=low", "--format=%N %T").splitlines()
        return dict(line.split() for line in lines)  # type: ignore[misc]

    @staticmethod
    def run(*command: str) -> str:
        """Output of a command of SLURM."""
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def wait_for(self, condition: object, seconds: float) -> None:
        """Wait until the condition holds; what the daemons said is part of the error."""
        end = time.monotonic() + seconds
        while True:
            try:
                if condition():  # type: ignore[operator]
                    return
            except subprocess.CalledProcessError:  # the controller is not up yet
                pass
            if time.monotonic() > end:
                logs = "\n".join(file.read_text()[-2000:] for file in sorted(self.folder.glob("*.log")))
                raise TimeoutError(f"not within {seconds} s.\n{logs}")
            time.sleep(0.5)

    def _start(self, program: str, *arguments: str, name: str = "") -> None:
        found = shutil.which(program, path=_path())
        assert found, program
        output = (self.folder / f"{name or program}.out").open("ab")
        self.daemons[name or program] = subprocess.Popen(
            [found, *arguments], stdout=output, stderr=output, start_new_session=True
        )
        if program == "munged":
            self.wait_for((self.folder / "munge.sock").exists, 20)

    def _stop(self, name: str, number: int = signal.SIGTERM) -> None:
        daemon = self.daemons.pop(name)
        daemon.send_signal(number)
        try:
            daemon.wait(15)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


if __name__ == "__main__":
    with SlurmCluster(Path(sys.argv[1])) as cluster:
        print(f"SLURM_CONF={cluster.folder}/slurm.conf", cluster.nodes(), flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
