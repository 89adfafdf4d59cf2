"""The same sweep as jobs of a real SLURM: slurmctld and slurmd of this machine, on loopback."""

import csv
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import time

import pytest

from tests import sweeping

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")
FOUND = all(shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") for program in PROGRAMS)

pytestmark = [
  pytest.mark.slow,
  pytest.mark.timeout(1800),
  pytest.mark.skipif(not FOUND, reason="needs slurm-wlm and munge"),
  pytest.mark.skipif(os.geteuid() != 0, reason="slurmd runs as root"),
  pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason="needs requirements-slurm.txt"
  ),
]

CONF = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count):
  sockets = [socket.socket() for _ in range(count)]
  for one in sockets:
    one.bind(("127.0.0.1", 0))
  ports = [one.getsockname()[1] for one in sockets]
  for one in sockets:
    one.close()
  return ports


@pytest.fixture
def cluster(tmp_path, monkeypatch):
  """A SLURM of one node with two processors; all of its daemons end with the test."""
  folder = tmp_path / "slurm"
  (folder / "state").mkdir(parents=True)
  (folder / "spool").mkdir()
  folder.chmod(0o755)
  key = folder / "munge.key"
  key.write_bytes(os.urandom(128))
  key.chmod(0o600)
  host = socket.gethostname().partition(".")[0]
  config = folder / "slurm.conf"
  config.write_text(CONF.format(host=host, folder=folder, ports=free_ports(2)))
  monkeypatch.setenv("SLURM_CONF", str(config))
  monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
  munge = ["munged", "--foreground", "--force", f"--key-file={key}"]
  munge += [f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid"]
  munge += [f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge.seed"]
  daemons = []
  try:
    for command in (munge, ["slurmctld", "-D", "-c"], ["slurmd", "-D", "-c"]):
      log = (folder / f"{command[0]}.out").open("w")
      daemons.append(subprocess.Popen(command, stdout=log, stderr=log))
      log.close()
      time.sleep(1)
    for _ in range(60):
      found = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True)
      if found.stdout.strip() == "idle":
        break
      time.sleep(1)
    else:
      pytest.fail(f"SLURM does not start: {(folder / 'slurmctld.out').read_text()[-2000:]}")
    yield host
  finally:
    subprocess.run(["scancel", "--quiet", "--full", "--user=root"], timeout=60)
    for daemon in reversed(daemons):
      daemon.terminate()
      daemon.wait(60)


def table(folder):
  """{trial: (state, loss, learning rate)} of results.csv."""
  with open(folder / "results.csv", newline="") as file:
    rows = csv.DictReader(file)
    names = ("state", "loss", "optimizer.learning_rate")
    return {row["trial"]: tuple(row[name] for name in names) for row in rows}


def finished(process):
  out, err = process.communicate(timeout=900)
  assert process.returncode == 0, err
  return out


def test_slurm_gives_the_results_of_this_machine_though_a_job_is_killed(cluster, tmp_path):
  space = '{"optimizer.learning_rate": log_uniform(1e-3, 1e-1, points=4)}'
  config = sweeping.write(tmp_path, space, steps=40)
  finished(sweeping.start(config, tmp_path / "local", "--workers=2"))
  folder, killed = tmp_path / "slurm_sweep", None
  flags = ("--workers=2", "--cluster=slurm", "--cluster-option=time=10")
  with sweeping.start(config, folder, *flags) as process:
    while process.poll() is None and killed is None:
      for path in folder.glob("claims/*"):
        holder = json.loads(path.read_text() or "{}")
        if "pid" in holder and sweeping.saved(folder, path.name):
          killed = path.name
          os.kill(holder["pid"], 9)
          break
      time.sleep(0.05)
    out = finished(process)
  assert "4 trials: 4 complete" in out
  assert table(folder) == table(tmp_path / "local")
  assert "resumed after step" in (folder / "trials" / killed / "log").read_text()
  assert list((folder / "logs").glob("*submission.sh"))  # they were jobs


def jobs():
  found = subprocess.run(["squeue", "-h", "-o", "%A"], capture_output=True, text=True)
  return found.stdout.split()


def test_jobs_outlive_a_killed_manager_and_save_for_a_stopped_one(cluster, tmp_path):
  config = sweeping.write(tmp_path, '{"seed": [0, 1]}', steps=1000)
  folder = tmp_path / "s"
  flags = ["--workers=1", "--cluster=slurm", "--config.checkpoint.every=50"]
  flags.append("--config.log.every=100")
  with sweeping.start(config, folder, *flags) as process:
    wait_for(lambda: sweeping.saved(folder, 0), process)
    process.kill()
    process.communicate()
  [job] = jobs()
  with sweeping.start(config, folder, *flags) as process:
    wait_for(lambda: manages(folder, process.pid), process)
    time.sleep(3)  # enough to begin another job, if it did not know of the first one
    assert jobs() == [job]
    wait_for(lambda: any(is_half_done(folder, trial) for trial in (0, 1)), process)
    process.terminate()
    process.communicate(timeout=900)
  assert process.returncode == 75
  assert jobs() == [] and not list(folder.glob("trials/*/lock"))
  assert "2 trials: 2 complete" in finished(sweeping.start(config, folder, *flags))
  assert "resumed after step" in "".join(p.read_text() for p in folder.glob("trials/*/log"))


def is_half_done(folder, trial):
  return sweeping.saved(folder, trial) and not (folder / f"trials/{trial}/result.json").exists()


def wait_for(happened, process):
  while not happened():
    assert process.poll() is None, process.communicate()
    time.sleep(0.05)


def manages(folder, pid):
  locks = [path.read_text() for path in folder.glob("managers/*/lock")]
  return pid in [json.loads(text or "{}").get("pid") for text in locks]
