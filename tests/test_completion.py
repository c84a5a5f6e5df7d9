"""Tab completion, as a shell does it."""

import os
import shutil
import subprocess

import pytest

from jaxgen.cli import completion
from jaxgen.cli.command import VERBS
from jaxgen.config import Config
from jaxgen.core.options import _options, possible_options
from jaxgen.recipes.presets import quickstart


@pytest.fixture(scope="module")
def options():
    return completion.all_options()


def _complete(script: str, *words: str) -> list[str]:
    """What bash offers for the last of the words."""
    line = " ".join(f"'{word}'" for word in words)
    ask = f'{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _jaxgen; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "--norc", "-c", ask], capture_output=True, text=True, check=True)
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
def test_bash_completes_verbs_options_and_choices(options):
    script = completion.bash_script(options)
    assert _complete(script, "jaxgen", "") == list(VERBS)
    assert _complete(script, "jaxgen", "gen") == ["generate"]
    assert _complete(script, "jaxgen", "train", "--train.st") == [
        "--train.steps",
        "--train.steps-per-call",
        "--train.stuck-after",
    ]
    assert _complete(script, "jaxgen", "prepare", "--data.ro") == ["--data.root"]
    assert _complete(script, "jaxgen", "generate", "--num-c") == ["--num-clips"]
    assert _complete(script, "jaxgen", "generate", "--train") == []
    assert "GRU" in _complete(script, "jaxgen", "train", "--model.cell", "")
    assert _complete(script, "jaxgen", "train", "--audio.resample", "r") == ["refuse"]
    assert _complete(script, "jaxgen", "train", "--config", "") == []  # the shell then offers files
    assert _complete(script, "jaxgen", "sweep", "--gr") == ["--grid"]
    assert _complete(script, "jaxgen", "sweep", "--grid", "train.seed=0", "--", "--train.se") == [
        "--train.seq-len",
        "--train.seed",
    ]
    assert _complete(script, "jaxgen", "completion", "") == ["bash", "zsh", "fish"]


@pytest.mark.skipif(not shutil.which("fish"), reason="there is no fish")
def test_fish_completes_verbs_options_and_choices(options, tmp_path):
    script = tmp_path / "jaxgen.fish"
    script.write_text(completion.fish_script(options))

    def offered(line: str) -> list[str]:
        ask = ["fish", "--no-config", "--command", f"source {script}; complete -C '{line}'"]
        done = subprocess.run(ask, capture_output=True, text=True, check=True, env=os.environ | {"HOME": str(tmp_path)})
        return [row.split("\t")[0] for row in done.stdout.splitlines()]

    assert offered("jaxgen gen") == ["generate"]
    assert offered("jaxgen train --train.st") == ["--train.steps", "--train.steps-per-call", "--train.stuck-after"]
    assert "GRU" in offered("jaxgen train --model.cell ")
    assert offered("jaxgen sweep --grid a=1 -- --train.se") == ["--train.seed", "--train.seq-len"]
    assert offered("jaxgen completion ") == ["bash", "fish", "zsh"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_another_shell_reads_its_script(shell, options, tmp_path):
    if not shutil.which(shell):
        pytest.skip(f"there is no {shell}")
    path = tmp_path / "script"
    path.write_text({"zsh": completion.zsh_script, "fish": completion.fish_script}[shell](options))
    subprocess.run([shell, "-n", path], check=True)


def test_every_option_of_a_run_is_completed(all_loaded):
    known = possible_options(Config)
    assert {name for name in _options(quickstart()) if ".metrics." not in name} <= known.keys()
    assert {
        "--model.channels",
        "--model.plan.cell.hidden-size",
        "--data.root",
    } <= known.keys()  # of other models and data


def test_a_shell_that_is_none_is_one_line(command):
    code, out, err = command(completion.main, "tcsh")
    assert (code, out) == (2, "")
    assert err == "jaxgen: the shell is 'tcsh', expected one of bash, zsh, fish; see jaxgen completion --help.\n"
