"""Django's settings for the cases; the environment names the database."""

import os
from pathlib import Path

import sqlalchemy as sa

URL = sa.make_url(os.environ["DATABASE_URL"])
SQLITE = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": URL.database,
    "OPTIONS": {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL",
    },
    "TEST": {"NAME": f"{URL.database}-test"},
}
POSTGRESQL = {
    "ENGINE": "django.db.backends.postgresql",
    "NAME": URL.database,
    "USER": URL.username,
    "HOST": URL.host,
    "PORT": str(URL.port),
    "OPTIONS": {
        "prepare_threshold": 1,
        "options": "-c jit=off -c plan_cache_mode=force_generic_plan",
    },
}
DATABASES = {
    "default": SQLITE if URL.get_backend_name() == "sqlite" else POSTGRESQL,
    "other": {"ENGINE": "django.db.backends.dummy", "NAME": "none"},
}
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "tests.hosts.django_app",
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "tests.hosts.test_django.urls"
BASE_DIR = Path(__file__).parent
SECRET_KEY = "a test"  # noqa: S105 - of the tests only
TIME_ZONE = "Asia/Kathmandu"
