from django.db import transaction
from django.http import JsonResponse

import recommender
from recommender.hosts.django import django_session


@transaction.atomic
def feed(request, user):
    with django_session() as session:
        recommender.upsert_users(session, [{"id": user}])
        page = recommender.for_you(session, user, cursor=request.GET.get("cursor"))
    return JsonResponse(page.as_dict())
