"""
sb3-spiking sweep on a real Ray of two nodes on one machine, in a network of its own where there is nothing but the loopback
device: as root, with the extra ``ray``.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from processes import environment
from small_lists import complete, log_of, wait, write_list
from test_sweep_paper import tiny

pytest.importorskip("ray")
HEAD, OTHER = "127.0.0.2", "127.0.0.3"  # 127.0.0.1 is any address of the machine to Ray


class Cluster:
    """Two nodes of one core each."""

    def __init__(self, folder):
        self.folder = folder
        # Ray listens on all addresses: these are all there are
        self.network = subprocess.Popen(["unshare", "--net", "sh", "-c", "ip link set lo up && exec sleep 3600"])
        self.inside = ["nsenter", f"--net=/proc/{self.network.pid}/ns/net"]
        own = os.readlink("/proc/self/ns/net")
        wait(lambda: os.readlink(f"/proc/{self.network.pid}/ns/net") != own)
        wait(lambda: "127.0.0.1" in subprocess.run([*self.inside, "ip", "address"], capture_output=True, text=True).stdout)
        self.head = self.start(
            "--head", f"--node-ip-address={HEAD}", "--port=6399", "--include-dashboard=false", f"--temp-dir={folder}"
        )
        self.other = self.start(f"--address={HEAD}:6399", f"--node-ip-address={OTHER}")

    def start(self, *options):
        """A node, in the foreground."""
        log = self.folder / f"{options[0].strip('-')[:4]}.txt"
        command = [*self.inside, Path(sys.executable).with_name("ray"), "start", *options, "--block", "--disable-usage-stats"]
        with log.open("w") as out:
            node = subprocess.Popen(
                [*command, "--num-cpus=1", "--object-store-memory=80000000"], stdout=out, stderr=out, env=environment()
            )
        wait(lambda: "Ray runtime started" in log.read_text())
        return node

    def processes(self):
        """Process ids and commands of all that Ray has started here."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(self.folder) in command:
                found[int(path.name)] = command
        return found

    def stop(self):
        """All of it, by process ids."""
        for node in (self.other, self.head):
            node.terminate()
            node.wait(60)
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        self.network.kill()
        self.network.wait()


@pytest.fixture
def cluster():
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("takes root and unshare")
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # sockets have short names
        cluster = Cluster(Path(folder))
        yield cluster
        cluster.stop()


@pytest.mark.slow
def test_a_job_whose_node_is_killed_goes_on_elsewhere(tmp_path, cluster):
    write_list(tmp_path, seeds=[0, 1])
    jobs = ["CartPole-v1_relu_0", "CartPole-v1_relu_1"]
    command = [sys.executable, "-m", "sb3_spiking", "sweep", "small.yml", "--on", "ray", "--address", f"{HEAD}:6399"]
    with (tmp_path / "out.txt").open("w") as out:
        sweep = subprocess.Popen([*cluster.inside, *command], cwd=tmp_path, env=environment(), stdout=out, stderr=out)
    try:
        for job in jobs:
            wait(lambda job=job: list((tmp_path / "logs/training/small" / job).glob("*/*/checkpoint/checkpoint.json")))
        (raylet,) = [
            pid
            for pid, command in cluster.processes().items()
            if "/raylet/raylet " in command and f"--node_ip_address={OTHER}" in command
        ]
        os.kill(raylet, signal.SIGKILL)
        assert sweep.wait(600) == 0, (tmp_path / "out.txt").read_text()
    finally:
        sweep.kill()
    complete(tmp_path, jobs)
    logs = [log_of(tmp_path, job) for job in jobs]
    assert sorted(log.count("of 3000 steps are done") for log in logs) == [0, 1]
    assert [log.count("rl_zoo3.train") for log in logs] == [1, 1]


@pytest.mark.slow
def test_the_papers_table_starts(tmp_path, cluster):
    names = tiny(tmp_path)
    command = [
        sys.executable,
        "-m",
        "sb3_spiking",
        "sweep",
        "paper.yml",
        "--on",
        "ray",
        "--address",
        f"{HEAD}:6399",
        "--only",
        *names,
    ]
    sweep = subprocess.run([*cluster.inside, *command], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert "6 of 6 jobs done" in sweep.stdout, sweep.stderr


@pytest.mark.slow
def test_no_node_has_what_a_job_asks_for(tmp_path, cluster):
    write_list(tmp_path)
    command = [
        sys.executable,
        "-m",
        "sb3_spiking",
        "sweep",
        "small.yml",
        "--on",
        "ray",
        "--address",
        f"{HEAD}:6399",
        "--threads",
        "2",
    ]
    sweep = subprocess.run([*cluster.inside, *command], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert sweep.returncode == 2
    assert re.search(rf"^error: --address {HEAD}:6399: no node has 2 CPU, 0 GPU, 0 memory$", sweep.stderr, re.MULTILINE)
    assert [path.name for path in tmp_path.iterdir()] == ["small.yml"]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere", "auto"])
def test_an_address_that_does_not_answer(address, tmp_path, in_process, capsys):
    write_list(tmp_path)
    with pytest.raises(SystemExit):
        in_process("sweep", f"small.yml --on ray --address {address}", tmp_path)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: --address {address}: n")
    assert [path.name for path in tmp_path.iterdir()] == ["small.yml"]
