"""Signing in, accounts, invites, the home page, health."""

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
