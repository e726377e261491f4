# One image for web, worker, worker-gpu, serve and beat: docker-compose.yml says which runs what.
FROM node:24-slim AS libraries
WORKDIR /srv
COPY package.json package-lock.json ./
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund

FROM python:3.11-slim
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    LABELAPP_VAR=/srv/var LABELAPP_STORE=/srv/store LABELAPP_STATIC=/srv/static \
    HF_HOME=/srv/var/huggingface
WORKDIR /srv/labelapp
COPY requirements.txt requirements-nodeps.txt ./
RUN pip install --no-cache-dir -r requirements.txt \
 && pip install --no-cache-dir --no-deps -r requirements-nodeps.txt
COPY --from=libraries /srv/node_modules ./node_modules
COPY manage.py ./
COPY labelapp ./labelapp
COPY trainer ./trainer
COPY templates ./templates
COPY static ./static
COPY locale ./locale
RUN useradd --system --create-home labelapp \
 && mkdir -p /srv/var /srv/store /srv/static \
 && python -m labelapp.catalogs compile \
 && LABELAPP_MODE=demo python manage.py collectstatic --noinput --verbosity 0 --skip-checks \
 && rm -rf /srv/var && mkdir /srv/var \
 && chown -R labelapp:labelapp /srv/var /srv/store
USER labelapp
EXPOSE 8000
CMD ["python", "-m", "gunicorn", "--config", "python:labelapp.webserver", "labelapp.wsgi:application"]
