"""The command line: each command parses, makes one library call and prints.

Commands are imported when they are run, so that help and completion stay instant.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from importlib import import_module
from types import FrameType
from typing import NoReturn

import click

from recommender.cli.options import database_option
from recommender.errors import RecommenderError, StorageFailure

COMMANDS = {
    "audit": "audit:audit",
    "bench": "bench:bench",
    "db": "db:db",
    "demo": "demo:demo",
    "doctor": "doctor:doctor",
    "evaluate": "evaluate:evaluate",
    "explain": "feed:explain",
    "feed": "feed:feed",
    "fit": "fit:fit",
    "follow": "write:follow",
    "export": "files:export",
    "import": "files:import_",
    "mute": "write:mute",
    "profiles": "profiles:profiles",
    "prune": "prune:prune",
    "rank": "feed:rank",
    "record": "write:record",
    "refresh": "refresh:refresh",
    "replay": "replay:replay",
    "unfollow": "write:unfollow",
    "unmute": "write:unmute",
    "user": "user:user",
    "video": "video:video",
}
"""Each command's name, and where in this package it is."""

_EXIT_BASE = 128
"""What a shell adds to the number of the signal that a command ended by."""

SUMMARIES = {
    "audit": "Check every page served against what was promised; writes nothing.",
    "bench": "Make a synthetic world in an empty database, and measure how fast its pages are.",
    "db": "Make, upgrade and inspect the database's tables.",
    "demo": "Make a small world, show a feed and why, swipe twice, show what changed.",
    "doctor": "Say what is not well with the database, and what to do; writes nothing.",
    "evaluate": "Say how good the feed is: rank what came later by what was known before.",
    "explain": "Say why a video stands where it stands in a user's feed.",
    "feed": "Print a user's For You feed, or a plain list; writes nothing, unless it is served.",
    "fit": "Learn the weights of a new version of a profile from what people did.",
    "follow": "Let USER follow CREATOR, who is created on sight.",
    "export": "Export users, videos, follows or events to a file.",
    "import": "Import users, videos, follows or events from a file.",
    "mute": "Keep a creator, hashtag, sound or words of captions out of USER's feeds.",
    "profiles": "List, show, create, compare and activate ranking profiles.",
    "prune": "Delete old events and sessions; what they taught, and what was seen, stays.",
    "rank": "Put the given videos in a user's order; no filter applies.",
    "record": "Record one event of a user with a video.",
    "refresh": "Bring statistics, neighbours and terms up to date with what was recorded.",
    "replay": "Say what a profile would have served to those who came; writes nothing.",
    "unfollow": "Let USER no longer follow CREATOR.",
    "unmute": "Let USER see again what was muted.",
    "user": "Show, export or erase what is stored of a user, or forget what was learned.",
    "video": "Publish, review or remove a video.",
}
"""Each command's line of help, here so that listing them imports none; a test compares."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are run."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All names, sorted."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"{__name__}.{module}"), attribute)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from `SUMMARIES`."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(SUMMARIES.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="recommender")
@database_option
def cli() -> None:
    """A For You feed inside your own SQL database.

    The database is --database-url, else RECOMMENDER_DATABASE_URL, else DATABASE_URL, else
    the SQLite file recommender.db in this folder. Data goes to stdout, messages to stderr.
    """


def main() -> None:
    """Run the command line, and exit as documented."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # who closes the pipe has read enough
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupted)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; return the exit code."""
    try:
        cli.main(arguments, prog_name="recommender", standalone_mode=False)
        if sys.stdout:
            sys.stdout.flush()
    except RecommenderError as error:
        click.echo(f"Error: {error}", err=True)
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except OSError as error:
        click.echo(f"Error: {error}", err=True)
        return StorageFailure.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return _EXIT_BASE + signal.SIGINT
    return 0


def _interrupted(number: int, _frame: FrameType | None) -> None:
    """End in order; the second time, at once, as every transaction allows."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _quit)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    click.echo("Terminated.", err=True)
    raise SystemExit(_EXIT_BASE + number)


def _quit(number: int, _frame: FrameType | None) -> NoReturn:
    os._exit(_EXIT_BASE + number)
