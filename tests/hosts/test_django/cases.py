"""Django's own tests of the application; `tests/hosts/test_django_app.py` runs them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from io import StringIO
from unittest import skipUnless

import pytest
import sqlalchemy as sa
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.test import TestCase, TransactionTestCase, override_settings
from sqlalchemy.dialects.postgresql import JSONB

import recommender
from recommender import models as ours
from recommender.hosts.django import django_engine, django_session
from tests.hosts.django_app.models import Video
from tests.hosts.drift import VIDEOS, drift

NOW = datetime.now(UTC) - timedelta(minutes=5)

TABLE = sa.table("django_app_video", *map(sa.column, ("id", "author_id", "status")))
HOST_VIDEOS = sa.select(
    sa.cast(TABLE.c.id, sa.String).label("key"),
    sa.cast(TABLE.c.author_id, sa.String).label("creator"),
    TABLE.c.status,
).where(TABLE.c.status != "removed")


def make_video(**columns):
    author, _ = get_user_model().objects.get_or_create(username="zoe")
    return Video.objects.create(author=author, published_at=NOW, **columns)


def stored(column, *videos):
    """Return a column of all videos, or of some: a TransactionTestCase leaves rows behind."""
    chosen = [ours.Video.key.in_([str(video.pk) for video in videos])] if videos else []
    statement = sa.select(column).where(*chosen).order_by(ours.Video.id)
    with transaction.atomic(), django_session() as session:
        return session.scalars(statement).all()


class Feeds(TestCase):
    """Each test is rolled back by Django, and so is what the recommender wrote."""

    def test_a_page_shows_the_hosts_videos_and_again_only_to_fill_it(self):
        videos = [str(make_video().pk) for _ in range(3)]
        for is_again in (False, True):
            items = self.client.get("/feed/ana").json()["items"]
            assert sorted(item["video"] for item in items) == videos
            assert ["refilled" in item for item in items] == [is_again] * 3

    def test_an_update_of_many_rows_is_told(self):
        make_video()
        make_video()
        assert Video.objects.update(status="removed") == 2
        assert stored(ours.Video.status) == ["removed", "removed"]
        assert self.client.get("/feed/ana").json()["items"] == []

    def test_what_no_method_tells_is_found_by_the_check(self):
        videos = [make_video() for _ in range(3)]
        for video in videos:
            video.status = "review"
        Video.objects.bulk_update(videos[:1], ["status"])  # this calls update()
        Video.objects.bulk_create([Video(id=99, author=videos[0].author, published_at=NOW)])
        Video.objects.filter(pk=videos[1].pk).delete()
        with django_session() as session:
            stale, extra = drift(session, HOST_VIDEOS, VIDEOS[1])
        assert (stale, extra) == (["99"], [str(videos[1].pk)])

    def test_both_are_rolled_back_together(self):
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            make_video()
            raise ZeroDivisionError
        assert (Video.objects.count(), stored(ours.Video.key)) == (0, [])

    def test_an_error_leaves_the_hosts_transaction_open(self):
        video = make_video()
        with pytest.raises(recommender.RecommenderError), django_session() as session:
            recommender.upsert_users(session, [{"id": "ben"}])
            session.execute(sa.text("INSERT INTO nowhere VALUES (1)"))
        with pytest.raises(IntegrityError), transaction.atomic():
            Video.objects.filter(pk=video.pk).delete()
            make_video(id=video.pk, status=None)
        with django_session() as session:
            ben = sa.select(ours.User.id).where(ours.User.key == "ben")
            assert session.scalar(ben) is None
            assert recommender.for_you(session, "ana").items[0].video == str(video.pk)

    def test_the_sessions_own_commit_and_rollback_end_its_savepoint_only(self):
        with django_session() as session:
            recommender.upsert_users(session, [{"id": "kept"}])
            session.commit()
            recommender.upsert_users(session, [{"id": "lost"}])
            session.rollback()
        with django_session() as session:
            assert session.scalars(sa.select(ours.User.key)).all() == ["kept"]
        assert connection.in_atomic_block

    def test_a_transaction_that_django_will_roll_back_takes_no_session(self):
        message = "An error occurred in the current transaction"
        with transaction.atomic():
            transaction.set_rollback(True)
            with (
                self.assertRaisesMessage(transaction.TransactionManagementError, message),
                django_session(),
            ):
                pass

    def test_json_and_streamed_rows_are_read_as_on_an_engine(self):
        make_video()
        with django_session() as session:
            recommender.upsert_users(session, [{"id": "ana"}])
            recommender.for_you(session, "ana")
            streamed = sa.select(ours.ServedVideo.signals).execution_options(yield_per=1)
            assert [type(row) for row in session.scalars(streamed)] == [dict]
            if connection.vendor == "postgresql":
                assert session.scalar(sa.select(sa.cast({"a": 1}, JSONB))) == {"a": 1}

    @skipUnless(connection.vendor == "postgresql", "SQLite prepares every statement")
    def test_statements_are_prepared_on_the_server(self):
        prepared = sa.text("SELECT count(*) FROM pg_prepared_statements WHERE statement ~ 'rec_'")
        with django_session() as session:
            for _ in range(3):
                recommender.trending(session)
            assert session.scalar(prepared) > 0

    def test_functions_are_made_once_while_rows_are_read(self):
        make_video()
        make_video()
        with transaction.atomic():
            rows = Video.objects.iterator(chunk_size=1)
            next(rows)
            with django_session() as session:
                assert recommender.trending(session).items[0].score == 0
            assert len(list(rows)) == 1

    def test_refresh_joins_the_transaction_of_a_test(self):
        video = make_video()
        with django_session() as session:
            recommender.upsert_users(session, [{"id": "ana"}])
            recommender.record(session, "ana", video.pk, "watch", completion=1.0)
            assert recommender.refresh(session.connection()).events == 1
        assert stored(ours.Video.impressions) == [1]

    def test_another_database_is_refused(self):
        message = "Django's database 'other' is neither PostgreSQL nor SQLite"
        with self.assertRaisesMessage(recommender.InvalidValue, message), django_engine("other"):
            pass


class Commits(TransactionTestCase):
    """What another connection sees."""

    def test_a_session_needs_a_transaction_of_django(self):
        message = "django_session() needs an open transaction.atomic()"
        with (
            self.assertRaisesMessage(transaction.TransactionManagementError, message),
            django_session(),
        ):
            pass

    def test_a_connection_goes_on_after_sessions_and_is_not_held(self):
        video = make_video()
        handlers = len(getattr(connection.connection, "_notice_handlers", ()))
        for _ in range(3):
            stored(ours.Video.key)
        assert len(getattr(connection.connection, "_notice_handlers", ())) == handlers
        assert connection.get_autocommit()
        connection.close()
        assert stored(ours.Video.key, video) == [str(video.pk)]

    def test_times_are_read_as_they_were_written_whatever_the_host_reads(self):
        video = make_video()
        for use_tz in (True, False):
            with override_settings(USE_TZ=use_tz):
                connection.close()
                assert stored(ours.Video.published_at, video) == [NOW]
        connection.close()

    def test_refresh_is_a_command_on_its_own_engine(self):
        video = make_video()
        with transaction.atomic(), django_session() as session:
            recommender.upsert_users(session, [{"id": "ana"}])
            recommender.record(session, "ana", str(video.pk), "watch", completion=1.0)
        out = StringIO()
        call_command("refresh_feed", stdout=out)
        assert "events=1" in out.getvalue()
        assert stored(ours.Video.impressions, video) == [1]
