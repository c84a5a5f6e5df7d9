"""What deploy/ holds: checked by the tool made for each file, true to our exit codes; its train command is a config's."""

import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import TINY

from jaxgen.config import load, split_values
from jaxgen.core.errors import ExitCode
from jaxgen.recipes.presets import load_config

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
SKY = sorted(DEPLOY.glob("sky_*.yaml"))
JOBSET = yaml.safe_load((DEPLOY / "jobset.yaml").read_text())
JOB = JOBSET["spec"]["replicatedJobs"][0]["template"]
NOT_INSTALLED = "pip install 'jaxgen[deploy]'"
CONTAINER = JOB["spec"]["template"]["spec"]["containers"][0]


def commands(text: str) -> list[list[str]]:
    """The train commands that a text shows, without what the shell would add to them."""
    lines = re.findall(r"python -m jaxgen\.train(?:[^\n\\`#]|\\\n)*", text)
    return [[word for word in shlex.split(line.replace("\\\n", "")) if word != "$@"] for line in lines]


COMMANDS = {
    "jobset.yaml": split_values(CONTAINER["command"]),
    "slurm.sh": commands((DEPLOY / "slurm.sh").read_text())[0],
    **{path.name: commands(path.read_text())[0] for path in SKY},
    "spot-machine.md": commands((ROOT / "docs" / "how-to" / "spot-machine.md").read_text())[0],
}


def local(words: list[str], data: str, workdir: str) -> list[str]:
    """A train command with folders of this machine in place of its own."""
    places = {words.index("--data.root") + 1: data, words.index("--workdir") + 1: workdir}
    return [places.get(at, word) for at, word in enumerate(words)]


def instruction(name: str) -> list[str]:
    """The words of an exec-form instruction of the Dockerfile; fails on the shell form, under which SIGTERM is lost."""
    [words] = re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)
    return json.loads(words)


def trained(words: list[str], workdir: Path) -> str:
    """Runs a command to its end, from the root of the repository; returns what it leaves: the report."""
    assert words[0] == "python"
    done = subprocess.run([sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == ExitCode.DONE, done.stderr
    return (workdir / "report.json").read_text()


def tool(name: str) -> str:
    """Where a program of the `deploy` extra is; skips the test where it is not."""
    found = shutil.which(name, path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        pytest.skip(f"{name} is not installed: " + ("uv tool install skypilot" if name == "sky" else NOT_INSTALLED))
    return found


def test_there_is_one_train_command():
    assert len({tuple(local(words, "DATA", "RUN")) for words in COMMANDS.values()}) == 1, COMMANDS


def test_the_train_command_is_that_of_a_config(tmp_path):
    """One that test_configs.py trains."""
    words = local(COMMANDS["jobset.yaml"], str(tmp_path), "RUN")
    assert words[:3] == ["python", "-m", "jaxgen.train"]
    config = load(ROOT / "configs" / "digits_mel.py")
    expected = dataclasses.replace(config, data=dataclasses.replace(config.data, root=str(tmp_path)), workdir="RUN")
    assert load_config(words[3:], "python -m jaxgen.train") == expected


@pytest.mark.nightly
def test_the_image_runs_the_quickstart(cache, tmp_path):
    words = instruction("ENTRYPOINT") + instruction("CMD")
    run = tmp_path / "run"
    assert "nats_per_frame" in trained([*words, *TINY, "--workdir", str(run), "--cache-dir", str(cache)], run)


@pytest.mark.parametrize("accelerator", ["cpu", "cuda", "tpu", "gpu"])
def test_the_image_installs_what_pyproject_calls_so(accelerator, tmp_path):
    [body] = re.findall(r"^RUN (?:--mount=\S+ |\\\n *)*(case(?:[^\n\\]|\\\n)*)", DOCKERFILE, re.MULTILINE)
    (tmp_path / "pip").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "pip").chmod(0o755)
    env = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "ACCELERATOR": accelerator}
    done = subprocess.run(["sh", "-c", body], env=env, capture_output=True, text=True)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    if accelerator == "gpu":  # pip itself would only warn
        assert done.returncode != 0
        assert "expected cpu, cuda or tpu" in done.stderr
    else:
        [asked] = re.findall(r"^install --constraint /source/constraints.txt /source\[(\S+)\]$", done.stdout.strip())
        assert set(asked.split(",")) == {"cloud", accelerator} - {"cpu"}
        assert set(asked.split(",")) <= extras.keys()


def test_the_image_is_linted():
    subprocess.run([tool("hadolint"), DEPLOY / "Dockerfile"], check=True)


@pytest.mark.parametrize("script", [DEPLOY / "slurm.sh", ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_a_script_is_linted(script):
    subprocess.run([tool("shellcheck"), "--external-sources", script], check=True)


def test_the_jobset_is_one_by_its_api():
    api = pytest.importorskip("kubeflow_trainer_api.models", reason=NOT_INSTALLED)
    assert api.JobsetV1alpha2JobSet.from_dict(JOBSET).to_dict() == JOBSET  # a field that it does not know is lost


def test_the_job_in_it_is_one_by_kubernetes():
    kubernetes = pytest.importorskip("kubernetes_validate", reason=NOT_INSTALLED)
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "host"}, **JOB}
    kubernetes.validate(job, kubernetes.latest_version(), strict=True)


def fate(code: int) -> str:
    """What JobSet does when a pod ends with this code: the rules of the Job give a reason, those of JobSet an action."""
    hopeless = [value for rule in JOB["spec"]["podFailurePolicy"]["rules"] for value in rule["onExitCodes"]["values"]]
    reason = "PodFailurePolicy" if code in hopeless else "BackoffLimitExceeded"
    rules = JOBSET["spec"]["failurePolicy"]["rules"]
    return next((rule["action"] for rule in rules if reason in rule["onJobFailureReasons"]), "RestartJobSet")


@pytest.mark.parametrize(
    ("code", "action"),
    [
        (ExitCode.PREEMPTED, "RestartJobSet"),
        (ExitCode.BAD_INPUT, "FailJobSet"),
        (ExitCode.DIVERGED, "FailJobSet"),
        (128 + signal.SIGKILL, "RestartJobSet"),
    ],
)
def test_kubernetes_does_with_an_exit_code_what_it_means(code, action):
    assert fate(code) == action
    assert JOB["spec"]["backoffLimit"] == 0


def test_the_processes_of_the_jobset_find_each_other():
    job, env = JOB["spec"], {entry["name"]: entry.get("value") for entry in CONTAINER["env"]}
    name, subdomain = JOBSET["metadata"]["name"], JOBSET["spec"]["network"]["subdomain"]
    host, _, port = env["JAX_COORDINATOR_ADDRESS"].partition(":")
    assert host == f"{name}-{JOBSET['spec']['replicatedJobs'][0]['name']}-0-0.{subdomain}"
    assert 1024 < int(port) < 65536
    assert job["parallelism"] == job["completions"] == int(env["JAX_NUM_PROCESSES"])


@pytest.fixture
def slurm(tmp_path):
    """Starts the Slurm script where `srun` waits for the file `end`, which holds its exit code, and `scontrol` is noted."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, body in {
        "srun": 'echo "$@" > srun\nuntil [ -s end ]; do sleep 0.02; done\nexit "$(cat end)"',
        "scontrol": 'echo "$@" > scontrol',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"

    def start(*options: str, **variables: str) -> subprocess.Popen:
        env = {**os.environ, "PATH": path, "SCRATCH": str(tmp_path / "a scratch"), "SLURM_JOB_ID": "41", **variables}
        return subprocess.Popen(["bash", DEPLOY / "slurm.sh", *options], cwd=tmp_path, env=env)

    return start


def end(folder: Path, code: int) -> None:
    (folder / "part").write_text(str(code))
    (folder / "part").rename(folder / "end")


KILLED = 128 + signal.SIGKILL


@pytest.mark.parametrize(
    ("code", "before"),
    [*((code, "50") for code in ExitCode if code != ExitCode.INTERRUPTED), (1, "0"), (KILLED, "9"), (KILLED, "10")],
)
def test_slurm_starts_again_what_was_saved_and_for_a_while_what_was_killed(slurm, tmp_path, code, before):
    end(tmp_path, code)
    with slurm("--train.steps", "9", SLURM_RESTART_COUNT=before) as script:
        status = script.wait(timeout=60)
    asked = (tmp_path / "srun").read_text()
    assert f"--data.root {tmp_path}/a scratch/fsdd" in asked
    assert asked.endswith("--train.steps 9\n")
    if code == ExitCode.PREEMPTED or (code, before) == (KILLED, "9"):
        assert (tmp_path / "scontrol").read_text() == "requeue 41\n"
    else:
        assert not (tmp_path / "scontrol").exists()
        assert status == code


def test_a_signal_to_the_script_of_slurm_does_not_hide_how_training_ends(slurm, tmp_path):
    with slurm() as script:
        while not (tmp_path / "srun").exists():
            time.sleep(0.02)
        script.send_signal(signal.SIGTERM)
        end(tmp_path, ExitCode.PREEMPTED)
        script.wait(timeout=60)
    assert (tmp_path / "scontrol").read_text() == "requeue 41\n"


_BY_SKYPILOT = """
import sys
from sky.utils import common_utils, schemas, yaml_utils
for file in sys.argv[1:]:
    task = yaml_utils.read_yaml(file)
    common_utils.validate_schema(task, schemas.get_task_schema(), f"{file}: ")
    common_utils.validate_schema(task["resources"], schemas.get_resources_schema(), f"{file}, resources: ")
"""


@pytest.mark.nightly
def test_the_tasks_are_some_by_skypilot(tmp_path):
    python = Path(tool("sky")).resolve().parent / "python"  # `sky` itself would ask clouds for prices
    home = {"HOME": str(tmp_path), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    subprocess.run([python, "-c", _BY_SKYPILOT, *SKY], env={**os.environ, **home}, check=True)


@pytest.mark.parametrize("file", SKY, ids=lambda path: path.stem)
def test_skypilot_recovers_what_was_saved(file):
    recovery = yaml.safe_load(file.read_text())["resources"]["job_recovery"]
    assert recovery == {"recover_on_exit_codes": [ExitCode.PREEMPTED]}  # a field that it does not know it lets pass
