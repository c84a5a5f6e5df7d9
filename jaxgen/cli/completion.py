"""Tab completion: `jaxgen completion bash` prints a script for the shell, and so for zsh and fish.

A script knows all verbs, options and their choices as they were when it was written: no TAB waits for Python.
"""

import sys
from collections.abc import Mapping

from jaxgen.core.errors import ExitCode, UserError, run
from jaxgen.core.options import possible_options

Options = Mapping[str, tuple[str, ...]]
"""Options of a verb, and to each the values that are known ahead."""

_SHELLS = ("bash", "zsh", "fish")
_BASH = """\
# Completes jaxgen in bash; written by `jaxgen completion bash`.
_jaxgen() {{
    local verb=${{COMP_WORDS[1]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} current=${{COMP_WORDS[COMP_CWORD]}} choices=
    if ((COMP_CWORD == 1)); then
        choices="{verbs}"
    else
        [[ " ${{COMP_WORDS[*]:0:COMP_CWORD}} " == *" -- "* ]] && verb=train
{cases}
    fi
    COMPREPLY=($(compgen -W "$choices" -- "$current"))
}}
complete -o default -F _jaxgen jaxgen
"""
_ZSH = """\
#compdef jaxgen
# Completes jaxgen in zsh; written by `jaxgen completion zsh`.
_jaxgen() {{
    local verb=${{words[2]}} before=${{words[CURRENT - 1]}} current=${{words[CURRENT]}} choices=
    if ((CURRENT == 2)); then
        choices="{verbs}"
    else
        ((${{words[(I)--]}})) && verb=train
{cases}
    fi
    if [[ -n $choices ]]; then compadd -- ${{=choices}}; else _files; fi
}}
compdef _jaxgen jaxgen
"""


_HELP = """\
usage: jaxgen completion SHELL

Prints a script that completes verbs, options and their choices in bash, zsh or fish:

  jaxgen completion bash > ~/.local/share/bash-completion/completions/jaxgen
  jaxgen completion zsh > ~/.zfunc/_jaxgen      (where ~/.zshrc has fpath+=~/.zfunc before compinit)
  jaxgen completion fish > ~/.config/fish/completions/jaxgen.fish

A new version of jaxgen may have other options: write the script again then.
"""


def main() -> int:
    shells = dict(zip(_SHELLS, (bash_script, zsh_script, fish_script), strict=True))
    shell = " ".join(sys.argv[1:]) or "--help"
    if shell in ("--help", "-h"):
        print(_HELP, end="")
    elif shell in shells:
        print(shells[shell](all_options()), end="")
    else:
        raise UserError(f"the shell is '{shell}', expected one of {', '.join(shells)}; see jaxgen completion --help.")
    return ExitCode.DONE


def all_options() -> dict[str, Options]:
    """The options of each verb that has any."""
    from jaxgen.cli import evaluate, generate, sweep  # jax is slow to import, and --help needs none
    from jaxgen.config import Config

    def of(cls: type) -> Options:
        return {"--help": (), **possible_options(cls)}

    train = {"--config": (), **of(Config)}
    own = {"generate": of(generate.Options), "evaluate": of(evaluate.Options), "sweep": of(sweep.Options)}
    return {**dict.fromkeys(("train", "prepare", "classifier"), train), **own}


def bash_script(options: Mapping[str, Options]) -> str:
    """What bash reads."""
    return _BASH.format(verbs=" ".join(_verbs()), cases=_cases(options))


def zsh_script(options: Mapping[str, Options]) -> str:
    """What zsh reads."""
    return _ZSH.format(verbs=" ".join(_verbs()), cases=_cases(options))


def fish_script(options: Mapping[str, Options]) -> str:
    """What fish reads."""
    lines = ["# Completes jaxgen in fish; written by `jaxgen completion fish`."]
    for verb, what in _verbs().items():
        lines.append(f"complete -c jaxgen -n __fish_use_subcommand -f -a {verb} -d {_fish_quote(what)}")
    lines.append(f"complete -c jaxgen -n '__fish_seen_subcommand_from completion' -f -a '{' '.join(_SHELLS)}'")
    for verbs, known in _alike(options):
        seen = f"complete -c jaxgen -n '__fish_seen_subcommand_from {' '.join(verbs)}'"
        for option, values in known.items():
            lines.append(f"{seen} -l {option[2:]}" + (f" -x -a '{' '.join(values)}'" if values else ""))
    behind = "complete -c jaxgen -n 'contains -- -- (commandline -opc)'"  # fish takes no word behind -- for an option
    lines.append(f"{behind} -f -a '{' '.join(options['train'])}'")
    return "\n".join(lines) + "\n"


def _verbs() -> Mapping[str, str]:
    from jaxgen.cli.command import VERBS  # which imports this module by its name

    return VERBS


def _cases(options: Mapping[str, Options]) -> str:
    """Sets `choices` by `verb`, the word `before` and the `current` one, in words that bash and zsh share."""
    lines = ['case "$verb $before" in', f'    "completion completion") choices="{" ".join(_SHELLS)}" ;;']
    for verbs, known in _alike(options):
        for option, values in known.items():
            if values:
                patterns = " | ".join(f'"{verb} {option}"' for verb in verbs)
                lines.append(f'    {patterns}) choices="{" ".join(values)}" ;;')
    lines += ["    *)", '        [[ $current == -* ]] && case "$verb" in']
    lines += [f'            {" | ".join(verbs)}) choices="{" ".join(known)}" ;;' for verbs, known in _alike(options)]
    lines += ["        esac", "        ;;", "esac"]
    return "\n".join(" " * 8 + line for line in lines)


def _alike(options: Mapping[str, Options]) -> list[tuple[list[str], Options]]:
    """The verbs that have the same options, and these."""
    groups: list[tuple[list[str], Options]] = []
    for verb, known in options.items():
        same = [verbs for verbs, others in groups if others is known]
        if same:
            same[0].append(verb)
        else:
            groups.append(([verb], known))
    return groups


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


if __name__ == "__main__":
    run(main)
