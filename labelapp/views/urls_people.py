"""Signing in, accounts, invites, the home page."""

from django.contrib.auth.views import LogoutView
from django.urls import URLPattern, path

from labelapp.views import account, home, language

urlpatterns: list[URLPattern] = [
    path("", home.home, name="home"),
    path("p/<slug:slug>/", home.project, name="project"),
    path("sign-in/", account.SignIn.as_view(), name="sign-in"),
    path("sign-out/", LogoutView.as_view(), name="sign-out"),
    path("account/", account.account, name="account"),
    path("account/keys/", account.account_keys, name="account-keys"),
    path("account/content/", account.account_avoids, name="account-avoids"),
    path("language/", language.language, name="language"),
    path("account/password/", account.password_change, name="password-change"),
    path("invite/<str:token>/", account.invite, name="invite"),
    path("reset/<uidb64>/<token>/", account.PasswordReset.as_view(), name="password-reset"),
]
