"""Every address of the product, from one file per audience."""

from django.urls import include, path

from labelapp.views import health

urlpatterns = [
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
    path("api/", include("labelapp.api.urls")),
    path("", include("labelapp.views.urls_people")),
    path("", include("labelapp.views.urls_work")),
    path("", include("labelapp.views.urls_steering")),
]

handler500 = "labelapp.views.errors.server_error"
