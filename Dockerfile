FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/listener
COPY requirements.lock ./
RUN /opt/listener/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY sql ./sql
COPY listener ./listener
RUN /opt/listener/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /dist . \
 && /opt/listener/bin/pip install --no-cache-dir --no-deps --no-index --find-links /dist immich-shared-library

FROM python:3.13-slim
LABEL org.opencontainers.image.title="immich-shared-library" \
      org.opencontainers.image.description="Shares part of one Immich user's library with another user, without running the machine learning twice" \
      org.opencontainers.image.licenses="MIT"
# A container that reads its settings from /config must not import code from there.
ENV PATH="/opt/listener/bin:$PATH" \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    HTTP_HOST=0.0.0.0
COPY --from=build /opt/listener /opt/listener
# .env and config.yaml are looked for here.
WORKDIR /config
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-m", "listener.healthcheck"]
# It runs as any user; compose sets the one of PUID and PGID.
ENTRYPOINT ["listener"]
CMD ["run"]
