from django.db import models, transaction

import recommender
from recommender.hosts.django import django_session


@transaction.atomic
def mirror(videos):
    with django_session() as session:
        recommender.upsert_videos(session, [
            {"id": v.pk, "creator": v.author_id, "status": v.status, "published_at": v.published_at}
            for v in videos
        ])  # fmt: skip


class VideoQuerySet(models.QuerySet):
    @transaction.atomic
    def update(self, **values):  # Django calls neither save() nor signals here
        keys = list(self.values_list("pk", flat=True))
        count = super().update(**values)
        mirror(self.model.objects.filter(pk__in=keys))
        return count


class Video(models.Model):
    author = models.ForeignKey("auth.User", models.PROTECT)
    status = models.TextField(default="published")
    published_at = models.DateTimeField()
    objects = VideoQuerySet.as_manager()

    @transaction.atomic
    def save(self, **options):
        super().save(**options)
        mirror([self])
