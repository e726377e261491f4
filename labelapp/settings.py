"""Every setting, in one file. Values come from the environment; nonsense and gaps are refused with one sentence each.

LABELAPP_MODE says what the process is for:
  demo         debug off, loopback only, plain-HTTP cookies, keys generated under var/ (`make demo`)
  development  debug on, keys generated under var/ (tests, `manage.py runserver`)
  production   debug off, secure cookies, HSTS, everything required must be set (the default)
"""

from datetime import timedelta
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from labelapp import embedded
from labelapp.environment import Environment, database, derived_secret, generated_secret
from labelapp.hardware import HARDWARE
from labelapp.log_lines import log_config

BASE_DIR = Path(__file__).resolve().parent.parent

environment = Environment()
env = environment

# --- what this process is for, and where its files are

LABELAPP_MODE = env.choice(
    "LABELAPP_MODE",
    "What the process is for: demo, development or production.",
    ("demo", "development", "production"),
    "production",
)
PRODUCTION = LABELAPP_MODE == "production"
DEBUG = LABELAPP_MODE == "development"

LABELAPP_VAR = env.path(
    "LABELAPP_VAR",
    "Folder for everything the app writes.",
    BASE_DIR / "var",
    "`var/` beside manage.py",
)
LABELAPP_STORE = env.path(
    "LABELAPP_STORE",
    "Folder for snapshots, runs and models; shared by web and workers.",
    LABELAPP_VAR / "store",
    "`$LABELAPP_VAR/store`",
)
LABELAPP_PORT = env.integer(
    "LABELAPP_PORT", "Port of the web server.", 8000, lowest=1, highest=65535
)
LABELAPP_BIND = env.text("LABELAPP_BIND", "Address that web and serve listen on.", "127.0.0.1")
WEB_WORKERS = env.integer("WEB_WORKERS", "Web server processes.", 2, lowest=1, highest=256)
WEB_THREADS = env.integer("WEB_THREADS", "Threads in each web server process.", 4, lowest=1)

# --- secrets and who may ask

SECRET_KEY = env.secret("SECRET_KEY", "Signs sessions and links.")
PSEUDONYM_KEY = env.secret(
    "PSEUDONYM_KEY", "Turns labelers into stable pseudonyms in exports; never change it."
)
ALLOWED_HOSTS = env.names(
    "ALLOWED_HOSTS", "Host names the site answers to.", described="loopback names", required=True
)
CSRF_TRUSTED_ORIGINS = env.names(
    "CSRF_TRUSTED_ORIGINS", "Origins, with scheme, whose forms are accepted beside our own."
)
TRUST_PROXY_TLS = env.flag(
    "TRUST_PROXY_TLS", "A proxy in front ends TLS and sets X-Forwarded-Proto and -For.", False
)
if not PRODUCTION:
    SECRET_KEY = SECRET_KEY or generated_secret(LABELAPP_VAR / "secret-key")
    PSEUDONYM_KEY = PSEUDONYM_KEY or generated_secret(LABELAPP_VAR / "pseudonym-key")
    ALLOWED_HOSTS = ALLOWED_HOSTS or ["127.0.0.1", "localhost", "[::1]", "testserver"]
if LABELAPP_MODE == "demo" and LABELAPP_BIND not in {"127.0.0.1", "::1", "localhost"}:
    env.problems.append("LABELAPP_BIND must be a loopback address in demo mode, as 127.0.0.1.")

# --- database and broker; unset outside production, the embedded servers

DATABASE_URL = env.url(
    "DATABASE_URL",
    "PostgreSQL: postgresql://user:password@host:port/name.",
    ("postgresql", "postgres"),
    described="embedded server",
    required=True,
)
REDIS_URL = env.url(
    "REDIS_URL",
    "Redis or Valkey: redis://:password@host:port/number.",
    ("redis", "rediss"),
    described="embedded server",
    required=True,
)
if PRODUCTION:
    env.problems += [
        f"{variable.name} is not set: {variable.meaning}" for variable in env.missing()
    ]
else:
    _running = embedded.addresses(LABELAPP_VAR)
    DATABASE_URL = DATABASE_URL or _running.database_url
    REDIS_URL = REDIS_URL or _running.redis_url

DATABASES = {"default": database(DATABASE_URL)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CACHES = {
    "default": {
        "BACKEND": "labelapp.cache.ForgetfulCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "cache",
        "OPTIONS": {"socket_connect_timeout": 1, "socket_timeout": 1},
    }
}

# --- models and training

LABELAPP_BASE_MODEL = env.text(
    "LABELAPP_BASE_MODEL",
    "Hugging Face Hub id or folder of the base model; unset, SmolLM2-135M-Instruct from its package.",
)
LABELAPP_PRETRAIN_TEXT = env.text(
    "LABELAPP_PRETRAIN_TEXT",
    "Text file, or folder of them, for the pretraining mix; unset, text drawn from the base model.",
)
LABELAPP_DATA = env.text(
    "LABELAPP_DATA", "Folder of public data sets for tests and benchmarks; no part needs it to run."
)
LABELAPP_TRAINING = env.choice(
    "LABELAPP_TRAINING",
    "Named profile of stage settings.",
    ("demo", "paper", "test"),
    "paper" if PRODUCTION else "demo",
    "`paper` in production, else `demo`",
)
LABELAPP_HARDWARE = env.choice(
    "LABELAPP_HARDWARE",
    "Named plan for a GPU worker's machine: processes, precision, memory.",
    tuple(HARDWARE),
    "default",
    "default",
)
LABELAPP_SERVE_URL = env.text(
    "LABELAPP_SERVE_URL",
    "Where serve answers live prompts, as http://host:port; without it they are answered later.",
    f"http://127.0.0.1:{LABELAPP_PORT % 65535 + 1}" if LABELAPP_MODE == "demo" else "",
    described="in demo mode, the port after LABELAPP_PORT",
)
LABELAPP_SERVE_TOKEN = env.text(
    "LABELAPP_SERVE_TOKEN", "What serve demands.", described="made from SECRET_KEY"
) or derived_secret(SECRET_KEY, "serve")
MIN_DEMONSTRATIONS = env.integer(
    "MIN_DEMONSTRATIONS", "Demonstrations a round needs before training.", 8, lowest=1
)
MIN_RANKINGS = env.integer("MIN_RANKINGS", "Rankings a round needs before training.", 8, lowest=1)
# seconds: how long a labeler holds a task; how long a silent run counts as alive, and how often it reports
LEASE_SECONDS = env.integer(
    "LEASE_SECONDS", "Seconds a labeler holds a task without a sign of life.", 1800, lowest=60
)
LABEL_GRACE_SECONDS = env.integer(
    "LABEL_GRACE_SECONDS",
    "Seconds in which a labeler can take a submit back; the label counts afterwards.",
    10,
    lowest=0,
)
BREAK_HINT_MINUTES = env.integer(
    "BREAK_HINT_MINUTES",
    "Minutes of work after which a labeler is told of a break; 0: never.",
    50,
    lowest=0,
)
RUN_LEASE_SECONDS = 30
RUN_HEARTBEAT_SECONDS = 5

# --- the application

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "rest_framework",
    "axes",
    "csp",
    "django_htmx",
    "labelapp",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "labelapp.middleware.OwnLanguage",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "axes.middleware.AxesMiddleware",
    "labelapp.middleware.ErrorPages",
]
ROOT_URLCONF = "labelapp.urls"
WSGI_APPLICATION = "labelapp.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.template.context_processors.i18n",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
FORM_RENDERER = "django.forms.renderers.DjangoTemplates"

# --- languages and time

LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("de", "Deutsch")]  # each by its own name
LANGUAGE_COOKIE_AGE = 365 * 24 * 3600
LANGUAGE_COOKIE_HTTPONLY = True
LANGUAGE_COOKIE_SECURE = PRODUCTION
LOCALE_PATHS = [BASE_DIR / "locale"]
USE_I18N = True
USE_TZ = True
TIME_ZONE = "UTC"

# --- static files: ours, and what labelapp.vendor picks from the browser libraries

NODE_MODULES = BASE_DIR / "node_modules"
STATIC_URL = "static/"
STATIC_ROOT = env.path(
    "LABELAPP_STATIC",
    "Folder into which static files are collected.",
    LABELAPP_VAR / "static",
    "`$LABELAPP_VAR/static`",
)
STATICFILES_DIRS = [BASE_DIR / "static"]
STATICFILES_FINDERS = [
    "django.contrib.staticfiles.finders.FileSystemFinder",
    "django.contrib.staticfiles.finders.AppDirectoriesFinder",
    "labelapp.vendor.VendorFinder",
]
_manifest = "whitenoise.storage.CompressedManifestStaticFilesStorage"
_plain = "django.contrib.staticfiles.storage.StaticFilesStorage"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": _plain if DEBUG else _manifest},
}
WHITENOISE_USE_FINDERS = DEBUG
WHITENOISE_AUTOREFRESH = DEBUG
DATA_UPLOAD_MAX_MEMORY_SIZE = 20 * 1024 * 1024
FILE_UPLOAD_MAX_MEMORY_SIZE = 20 * 1024 * 1024

# --- people

AUTH_USER_MODEL = "labelapp.User"
LOGIN_URL = "sign-in"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "sign-in"
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
_validators = "django.contrib.auth.password_validation"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"{_validators}.UserAttributeSimilarityValidator"},
    {"NAME": f"{_validators}.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": f"{_validators}.CommonPasswordValidator"},
    {"NAME": f"{_validators}.NumericPasswordValidator"},
]
PASSWORD_RESET_TIMEOUT = 3 * 24 * 3600

AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_ON_SUCCESS = True
AXES_CLIENT_IP_CALLABLE = "labelapp.addresses.client_address"
AXES_VERBOSE = False
AXES_LOCKOUT_CALLABLE = (
    "labelapp.views.account.locked_out"  # the sign-in page says when to try again
)

# --- what a browser may do

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "object-src": ["'none'"],
        "base-uri": ["'none'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
    }
}
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
SESSION_COOKIE_AGE = 14 * 24 * 3600
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = PRODUCTION
CSRF_COOKIE_SECURE = PRODUCTION
SECURE_SSL_REDIRECT = PRODUCTION
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$"]  # asked from beside, without TLS
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if PRODUCTION else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = PRODUCTION
SECURE_HSTS_PRELOAD = PRODUCTION
if TRUST_PROXY_TLS:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

# --- API

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "rest_framework.authentication.SessionAuthentication",
        "labelapp.api.authentication.TokenAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["labelapp.api.parsers.StorableJSONParser"],
    "EXCEPTION_HANDLER": "labelapp.api.exceptions.handler",
    "NUM_PROXIES": 1 if TRUST_PROXY_TLS else 0,
    "DEFAULT_THROTTLE_RATES": {
        "submit": env.rate("THROTTLE_SUBMIT", "Labels and drafts from one person.", "240/minute"),
        "preview": env.rate(
            "THROTTLE_PREVIEW", "Previews of what one person is writing.", "300/minute"
        ),
        "live": env.rate("THROTTLE_LIVE", "Live prompts from one person.", "10/minute"),
        "export": env.rate("THROTTLE_EXPORT", "Exports by one person.", "30/hour"),
    },
}

# --- tasks

CELERY_BROKER_URL = REDIS_URL
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None  # a broker that comes back is found again
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 3600}
CELERY_TASK_PUBLISH_RETRY_POLICY = {"max_retries": 2, "interval_start": 0, "interval_max": 0.5}
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_DEFAULT_QUEUE = "default"
CELERY_TASK_ROUTES = {"labelapp.tasks.run_execute": {"queue": "gpu"}}
CELERY_TASK_CREATE_MISSING_QUEUES = True
CELERY_TASK_ACKS_LATE = True  # every task may run twice and does nothing the second time
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULE_FILENAME = str(LABELAPP_VAR / "celerybeat-schedule")
CELERY_BEAT_SCHEDULE = {
    "sweep": {"task": "labelapp.tasks.sweep", "schedule": 10.0, "options": {"expires": 30}}
}

# --- logs: one plain line each, to stdout

LOG_LEVEL = env.choice(
    "LOG_LEVEL", "How much is logged.", ("DEBUG", "INFO", "WARNING", "ERROR"), "INFO"
)
LOGGING = log_config(LOG_LEVEL)

if env.problems:
    raise ImproperlyConfigured(
        f"labelapp cannot start in {LABELAPP_MODE} mode:\n  " + "\n  ".join(env.problems)
    )
