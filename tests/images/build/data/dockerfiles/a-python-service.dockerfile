# syntax=docker/dockerfile:1
ARG PYTHON=3.12
FROM python:${PYTHON}-slim AS base
ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /srv

FROM base AS wheels
COPY pyproject.toml ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel --wheel-dir=/wheels .

FROM base
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels pip install /wheels/*.whl
COPY --chown=nobody . .
USER nobody
EXPOSE 8000
HEALTHCHECK --interval=30s CMD python -c "import urllib.request as u; u.urlopen('http://localhost:8000')"
ENTRYPOINT ["python", "-m", "service"]
CMD ["--port", "8000"]
