from django.core.management import BaseCommand

import recommender
from recommender.hosts.django import django_engine


class Command(BaseCommand):
    def handle(self, **_options):
        with django_engine() as engine:
            self.stdout.write(str(recommender.refresh(engine)))
