"""The admins' and researchers' pages."""

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
