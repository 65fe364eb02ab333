"""The command `cai reward-server`: a judge as the reward of trainers elsewhere."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cai.cli.main import say
from cai.cli.options import Fields, add_command, fields_of, values_of

app = typer.Typer(rich_markup_mode=None)
TOKEN = "CAI_REWARD_TOKEN"  # the variable of the token, which the examples read, too


def _fields() -> Fields:
    from cai.rewards.settings import RewardSettings

    return fields_of(RewardSettings)


def reward_server(
    out: Annotated[Path, typer.Option(help="Folder of the answers and of rewards.jsonl.")] = Path("runs/rewards"),
    port: Annotated[int, typer.Option(help="Port; 0: a free one.", min=0, max=65_535)] = 0,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any other than 127.0.0.1 is open to the network.")
    ] = ("127.0.0.1"),
    token: Annotated[
        str | None, typer.Option(help="Token that clients must send (default: a new one).", envvar=TOKEN)
    ] = None,
    **options: Any,
) -> None:
    """Rate replies that trainers elsewhere post to /score, by a judge or a reward model. Ctrl-C ends it.

    Answers are kept in --out: no question is paid for twice, and --max-cost holds over all sessions.

    Example: cai reward-server -c harmless --judge openai:gpt-4.1-mini --max-cost 5 --port 8300
    """
    from cai.cli.terminal.console import show
    from cai.rewards.folder import opened
    from cai.rewards.server import serve
    from cai.rewards.settings import RewardSettings
    from cai.sources.yamlfile import make_settings

    settings = make_settings(RewardSettings, values_of(options))
    key = token or secrets.token_urlsafe(24)

    def announce(address: str) -> None:
        if not token:
            show([f"export {TOKEN}={key}"])
        show([f"{reward.title} rates replies; answers are kept in {out}; Ctrl-C ends the server"])
        say([address])
        sys.stdout.flush()

    with opened(out, settings) as reward:
        scorer = serve(reward, host, port, key, announce)
        show(scorer.lines())


add_command(app, "reward-server", reward_server, _fields)
