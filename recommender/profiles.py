"""Ranking profiles: named, versioned sets of weights, kept in the database."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Select
from sqlalchemy.orm import Session, aliased

from recommender import fields
from recommender.columns import LARGEST_WEIGHT, Statement
from recommender.errors import InvalidValue, UnknownProfile
from recommender.models import ProfileVersion, ProfileWeight
from recommender.scoring import signal_of
from recommender.values import REFERENCE, Profile

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,99}", re.ASCII)
_VERSION = re.compile(r"[1-9]\d{0,8}", re.ASCII)


def get_profile(session: Session, profile: str | None = None) -> Profile:
    """A profile's version: one statement.

    Args:
        session: the caller's transaction.
        profile: ``name`` for its newest version, ``name@version`` for that one, None for the
            version activated last.

    Raises:
        UnknownProfile: there is no such profile or version.
    """
    name, version = (None, None) if profile is None else _split(profile)
    statement = _read_one(is_named=name is not None, is_numbered=version is not None)
    rows = session.execute(statement, {"name": name, "version": version}).all()
    if not rows:
        raise UnknownProfile(f"there is no profile {fields.shown(profile)}")
    return _profiles(rows)[0]


def profile_of_id(session: Session, row_id: int) -> Profile:
    """The version of a profile that a page was ranked by: one statement."""
    return _profiles(session.execute(_read().where(ProfileVersion.id == row_id)))[0]


def list_profiles(session: Session) -> list[Profile]:
    """Every version of every profile, by name and version.

    Args:
        session: the caller's transaction.
    """
    return _profiles(session.execute(_read()).all())


def create_profile(session: Session, name: str, weights: Mapping[str, float]) -> Profile:
    """Make a new version of a profile; it serves by default once it is activated.

    Args:
        session: the caller's transaction; nothing is committed.
        name: a letter, then letters, digits and ``_ . -``, at most 100 in all; not ``classic``.
        weights: at least one signal's weight, -100 to 100 each.

    Raises:
        InvalidValue: a name or weight is not of its form.
        UnknownSignal: there is no such signal.
    """
    if not _NAME.fullmatch(name):
        raise InvalidValue(
            f"profile: {fields.shown(name)} is not a letter followed by letters, digits, _ . or -"
        )
    if name == REFERENCE:
        raise InvalidValue(f"profile: {REFERENCE} is the reference formula: choose another name")
    if not weights:
        raise InvalidValue("weights: a profile needs at least one")
    checked = {signal_of(signal).name: checked_weight(signal, w) for signal, w in weights.items()}
    _lock(session)
    newest = sa.select(sa.func.max(ProfileVersion.version)).where(ProfileVersion.name == name)
    version = (session.scalar(newest) or 0) + 1
    row = ProfileVersion(name=name, version=version, created_at=fields.now())
    row.weights = [
        ProfileWeight(signal=signal, position=position, weight=weight)
        for position, (signal, weight) in enumerate(checked.items(), start=1)
    ]
    session.add(row)
    session.flush()
    return Profile(name, version, checked, id=row.id)


def _lock(session: Session) -> None:
    """Let makers of profiles wait for each other, so that they count versions up one by one."""
    reference = sa.select(ProfileVersion.id).where(ProfileVersion.name == REFERENCE)
    session.execute(reference.with_for_update())


def activate_profile(session: Session, profile: str) -> Profile:
    """Let a version serve where no profile is asked for, from now on.

    Args:
        session: the caller's transaction; nothing is committed.
        profile: ``name`` for its newest version, ``name@version`` for that one.

    Raises:
        UnknownProfile: there is no such profile or version.
    """
    found = get_profile(session, profile)
    last = session.scalar(sa.select(sa.func.max(ProfileVersion.activated_at)))
    session.execute(
        sa.update(ProfileVersion)
        .where(ProfileVersion.name == found.name, ProfileVersion.version == found.version)
        .values(activated_at=_after(last))
    )
    return replace(found, active=True)


def _after(last: datetime | None) -> datetime:
    """Now, or just after `last` where this machine's clock is behind it."""
    now = fields.now()
    return max(now, last + timedelta(microseconds=1)) if last else now


def checked_weight(signal: str, weight: float) -> float:
    """The weight of a signal, -100 to 100, or `InvalidValue`."""
    try:
        return fields.number(weight, -LARGEST_WEIGHT, LARGEST_WEIGHT)
    except InvalidValue as error:
        raise InvalidValue(f"weight of {signal}: {error}") from None


def _split(profile: str) -> tuple[str, int | None]:
    if not isinstance(profile, str):
        raise UnknownProfile(f"there is no profile {fields.shown(profile)}")
    name, at, version = profile.partition("@")
    if not _NAME.fullmatch(name) or (at and not _VERSION.fullmatch(version)):
        raise UnknownProfile(f"there is no profile {fields.shown(profile)}")
    return name, int(version) if at else None


@cache
def _read_one(*, is_named: bool, is_numbered: bool) -> Statement:
    wanted = _named(is_numbered=is_numbered) if is_named else _active()
    return _read().where(ProfileVersion.id == wanted.scalar_subquery())


def _named(*, is_numbered: bool) -> Select[int]:
    version = aliased(ProfileVersion)
    named = sa.select(version.id).where(version.name == sa.bindparam("name"))
    if is_numbered:
        return named.where(version.version == sa.bindparam("version"))
    return named.order_by(version.version.desc()).limit(1)


def _active() -> Select[int]:
    version = aliased(ProfileVersion)
    latest = (version.activated_at.desc(), version.id.desc())
    activated = sa.select(version.id).where(version.activated_at.is_not(None))
    return activated.order_by(*latest).limit(1)


def _read() -> Statement:
    version, weight = ProfileVersion, ProfileWeight
    is_active = (version.id == _active().scalar_subquery()).label("active")
    return (
        sa.select(
            version.id, version.name, version.version, is_active, weight.signal, weight.weight
        )
        .join(weight, weight.profile_id == version.id)
        .order_by(version.name, version.version, weight.position)
        .prefix_with("/* recommender.profiles */")
    )


def _profiles(rows: Iterable[Any]) -> list[Profile]:
    return [
        Profile(name, version, {row.signal: row.weight for row in group}, bool(active), number)
        for (number, name, version, active), group in groupby(
            rows, key=lambda row: (row.id, row.name, row.version, row.active)
        )
    ]
