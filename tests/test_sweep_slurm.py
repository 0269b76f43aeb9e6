"""
sb3-spiking sweep on a real Slurm of one machine, which tests/slurm.sh sets up and takes down: as root, with Debian's packages
munge and slurm-wlm and the extra ``slurm``.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment, finished, python
from small_lists import complete, log_of, wait, write_list
from test_sweep_paper import tiny

pytest.importorskip("submitit")
SCRIPT = Path(__file__).with_name("slurm.sh")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    if os.geteuid() != 0 or shutil.which("slurmctld", path=os.environ["PATH"] + ":/usr/sbin") is None:
        pytest.skip("takes root, and apt-get install munge slurm-wlm")
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run(["sh", SCRIPT, "up", folder], check=True)
    yield {"SLURM_CONF": str(folder / "slurm.conf")}
    subprocess.run(["sh", SCRIPT, "down", folder], check=True)


def start(folder, slurm, *options):
    """A sweep in a process of its own, what it prints in out.txt."""
    command = [sys.executable, "-m", "sb3_spiking", "sweep", "small.yml", "--on", "slurm", "--time", "10", *options]
    with (folder / "out.txt").open("a") as out:
        return subprocess.Popen(command, cwd=folder, env=environment(**slurm), stdout=out, stderr=subprocess.STDOUT)


def job_id(folder, job):
    file = folder / f"logs/training/small/slurm/{job}.id"
    return wait(lambda: file.exists() and file.read_text())


def checkpointed(folder, job):
    wait(lambda: list((folder / "logs/training/small" / job).glob("*/*/checkpoint/checkpoint.json")))


@pytest.mark.slow
def test_jobs_that_are_requeued_or_preempted_go_on(tmp_path, slurm):
    write_list(tmp_path, seeds=[0, 1])
    jobs = ["CartPole-v1_relu_0", "CartPole-v1_relu_1"]
    sweep = start(tmp_path, slurm)
    try:
        for job, command in zip(jobs, (["scontrol", "requeue"], ["scancel", "--signal=USR2"]), strict=True):
            checkpointed(tmp_path, job)
            subprocess.run([*command, job_id(tmp_path, job)], check=True, env=environment(**slurm))
        # The sweep itself ends too; another one watches the same jobs
        sweep.kill()
        sweep.wait()
        again = start(tmp_path, slurm)
        assert again.wait(600) == 0, (tmp_path / "out.txt").read_text()
    finally:
        sweep.kill()
    complete(tmp_path, jobs)
    for job in jobs:
        log = log_of(tmp_path, job)
        assert log.count("rl_zoo3.train") == 1, log
        assert log.count("of 3000 steps are done") == 1, log
    assert len(list((tmp_path / "logs/training/small/slurm").glob("*_submission.sh"))) == 2


@pytest.mark.slow
def test_a_job_that_is_cancelled_has_failed(tmp_path, slurm):
    write_list(tmp_path)
    sweep = start(tmp_path, slurm)
    checkpointed(tmp_path, "CartPole-v1_relu_0")
    subprocess.run(["scancel", job_id(tmp_path, "CartPole-v1_relu_0")], check=True, env=environment(**slurm))
    assert sweep.wait(120) == 1
    out = (tmp_path / "out.txt").read_text()
    assert "failed, 1 of 1 jobs" in out
    assert "again: sb3-spiking sweep small.yml --on slurm --time 10 --only CartPole-v1_relu_0" in out


@pytest.mark.slow
def test_the_papers_table_starts(tmp_path, slurm):
    names = tiny(tmp_path)
    options = ["--on", "slurm", "--only", *names]
    assert "6 of 6 jobs done" in finished(
        python("-m", "sb3_spiking", "sweep", "paper.yml", *options, folder=tmp_path, **slurm)
    )


@pytest.mark.slow
def test_what_slurm_does_not_take_is_one_line(tmp_path, slurm, in_process, monkeypatch, capsys):
    write_list(tmp_path)
    monkeypatch.setenv("SLURM_CONF", slurm["SLURM_CONF"])
    with pytest.raises(SystemExit):
        in_process("sweep", "small.yml --on slurm --partition none", tmp_path)
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert "error: --on slurm: Slurm does not take the job: " in error
    assert "invalid partition specified: none" in error


def test_no_slurm_at_hand(tmp_path, in_process, monkeypatch, capsys):
    write_list(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    for options, message in (
        ("", "error: --on slurm: there is no Slurm on this machine (no squeue); expected a node of a cluster\n"),
        ("--gpus 0.5", "error: --gpus 0.5: Slurm gives whole ones\n"),
    ):
        with pytest.raises(SystemExit):
            in_process("sweep", f"small.yml --on slurm {options}", tmp_path)
        assert capsys.readouterr().err == message
    assert [path.name for path in tmp_path.iterdir()] == ["small.yml"]
