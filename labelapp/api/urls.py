"""The JSON API, one module per audience."""

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
