"""`ironloom completion`: the script that a shell loads once."""

from __future__ import annotations

import click

from ironloom.cli.output import put


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a shell's completion script.

    \b
    bash: ironloom completion bash > ~/.local/share/bash-completion/completions/ironloom
    zsh:  ironloom completion zsh > "${fpath[1]}/_ironloom"
    fish: ironloom completion fish > ~/.config/fish/completions/ironloom.fish

    Commands, options and the names of services complete.
    """
    from click.shell_completion import ShellComplete, get_completion_class

    from ironloom.cli.main import cli

    found = get_completion_class(shell)
    assert found is not None, f"click knows no shell {shell}"
    # Not `source()` of bash's own class: it starts a bash to ask for its version, and this machine's bash need not
    # be the one that will load the script.
    put(ShellComplete.source(found(cli, {}, "ironloom", "_IRONLOOM_COMPLETE")).rstrip("\n"))
