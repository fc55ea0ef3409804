from django.db import migrations, models

import recommender
from recommender.hosts.django import django_session


def upgrade(_apps, schema_editor):
    with django_session(schema_editor.connection.alias) as session:
        recommender.upgrade(session.connection())


class Migration(migrations.Migration):
    dependencies = [("auth", "0001_initial")]
    operations = [
        migrations.RunPython(upgrade, migrations.RunPython.noop),
        migrations.CreateModel("Video", [
            ("id", models.BigAutoField(primary_key=True)),
            ("author", models.ForeignKey("auth.User", models.PROTECT)),
            ("status", models.TextField(default="published")),
            ("published_at", models.DateTimeField()),
        ]),
    ]  # fmt: skip
