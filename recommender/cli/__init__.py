"""The command line: each command parses, makes one library call and prints.

Commands are imported when they run, so that help and completion stay fast.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from importlib import import_module
from keyword import iskeyword
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from recommender.cli.options import database_option
from recommender.errors import RecommenderError, StorageFailure
from recommender.settings import configured_registry

GROUPS = {
    "Feed": {
        "demo": ("demo", "Create a small world, show a feed, swipe twice, show the change."),
        "feed": ("feed", "Show a user's For You feed, or another list of videos."),
        "explain": ("feed", "Explain why a video has its place in a user's feed, or has none."),
        "similar": ("similar", "Show the videos that are most like one, or like several together."),
        "digest": ("digest", "Serve the first videos of a feed to many users, and print them."),
        "reach": ("reach", "Show the users who would want a video most."),
        "people": ("people", "Show creators whom a user could follow."),
        "rank": ("feed", "Sort the given videos for a user, without filtering."),
        "record": ("write", "Record one event: something that a user did with a video."),
        "follow": ("write", "Make a user follow a creator."),
        "unfollow": ("write", "Make a user stop following a creator."),
        "mute": ("write", "Hide a creator, hashtag, sound or keyword from a user's feeds."),
        "unmute": ("write", "Remove a mute."),
        "dismiss": ("write", "Keep a creator out of a user's lists of people to follow."),
        "block": ("write", "Block a user: neither sees the other in lists of theirs."),
        "unblock": ("write", "Remove a block."),
    },
    "Data": {
        "import": ("files", "Import users, videos, events and other rows."),
        "export": ("files", "Export users, videos, events and other rows."),
        "embeddings": ("embeddings", "Create, list, index and drop spaces: tables of vectors."),
        "user": ("user", "Show, export, merge, rename, erase or reset a user."),
        "video": ("video", "Publish, review, remove or erase a video."),
    },
    "Profiles and learning": {
        "feeds": ("feeds", "List, show, create and delete feeds with names."),
        "profiles": ("profiles", "List, create, compare and activate ranking profiles."),
        "experiments": ("experiments", "Compare profiles on the users of a feed."),
        "evaluate": ("evaluate", "Measure how well the feed ranks what users wanted later."),
        "fit": ("fit", "Learn the weights of a new profile version from what users did."),
        "replay": ("replay", "Estimate how another profile would have done. Read-only."),
        "refresh": ("refresh", "Bring statistics and similar videos up to date with new events."),
    },
    "Operation": {
        "db": ("db", "Create, upgrade and check the database tables."),
        "slice": ("slice", "Write what the pages of users read to a file, for a bug report."),
        "doctor": ("doctor", "Check the database and suggest fixes. Read-only."),
        "audit": ("audit", "Check that every page served kept its promises. Read-only."),
        "report": ("report", "Write a report for people: one HTML file that opens offline."),
        "metrics": ("metrics", "Print figures for monitoring, for Prometheus. Read-only."),
        "prune": ("prune", "Delete what has expired, and old events and sessions."),
        "bench": ("bench", "Measure page times on a synthetic world in an empty database."),
    },
}  # fmt: skip
"""The commands by group: each with its module in this package and its line of help.

The lines stand here so that listing them imports no command. A test compares them.
"""

COMMANDS = {name: entry for commands in GROUPS.values() for name, entry in commands.items()}
"""The commands by name: their modules and lines of help."""

_EXIT_BASE = 128
"""The number that a shell adds to the signal that ended a command."""


class LazyGroup(click.Group):
    """A group that imports a command when it runs, and lists commands by their group."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return all names, sorted."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return a command, or None if there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        attribute = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        command: click.Command = getattr(import_module(f"{__name__}.{module}"), attribute)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each group of commands, with their names in one column."""
        width = max(map(len, COMMANDS))
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(name.ljust(width), summary) for name, (_, summary) in commands.items()]
                )


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="recommender")
@database_option
def cli() -> None:
    """A For You feed inside your own SQL database.

    The database is --database-url, else RECOMMENDER_DATABASE_URL, else DATABASE_URL, else the
    SQLite file recommender.db in this folder. Data goes to stdout, messages to stderr.

    Start with `recommender demo`.
    """
    # A registry may lie in the working folder, but hides no module that is installed.
    if configured_registry() and (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)


def main() -> None:
    """Run the command line and exit with the documented code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a closed pipe ends a command
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupted)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    try:
        # Not in standalone mode, click returns the code with which a command ends its context.
        code = cli.main(arguments, prog_name="recommender", standalone_mode=False)
        if sys.stdout:
            sys.stdout.flush()
    except RecommenderError as error:
        click.echo(f"Error: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        if isinstance(error, click.NoSuchOption):
            _explain_dashes(error.ctx)
        return error.exit_code
    except OSError as error:
        click.echo(f"Error: {error}", err=True)
        return StorageFailure.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return _EXIT_BASE + signal.SIGINT
    return code if isinstance(code, int) else 0


def _explain_dashes(ctx: click.Context | None) -> None:
    """Print how to give a command an id that begins with a dash, if it takes arguments."""
    parameters = ctx.command.params if ctx else ()
    names = [p.human_readable_name for p in parameters if isinstance(p, click.Argument)]
    if ctx and names:
        usage = f"{ctx.command_path} [OPTIONS] -- {' '.join(names)}"
        click.echo(f"If an id begins with -, write -- before it: {usage}", err=True)


def _interrupted(number: int, _frame: FrameType | None) -> None:
    """End the command in order; a second signal ends it at once."""
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, _quit)  # every transaction allows it
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    click.echo("Terminated.", err=True)
    raise SystemExit(_EXIT_BASE + number)


def _quit(number: int, _frame: FrameType | None) -> NoReturn:
    os._exit(_EXIT_BASE + number)
