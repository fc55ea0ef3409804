from django.urls import path

from tests.hosts.django_app import views

urlpatterns = [path("feed/<user>", views.feed)]
